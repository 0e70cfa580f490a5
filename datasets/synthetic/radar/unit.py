"""The radar unit: the two scans of the Continental ARS 408-21 that nuScenes' cars carry.

Fields of view, cells and accuracies are those of its data sheet; the losses of the antenna follow from how far its data
sheet says it sees in each direction.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from datasets.arrays import Array

# What looks smaller (dBsm) is not reported, and no return lies farther to the side or away.
LOWEST_RCS = -5.0
MAX_AZIMUTH = float(np.radians(76.0))
MAX_RANGE = 250.0
# Fading seldom lifts an echo by more (dB): what would need that to be heard need not be looked at.
HOPE = 4.0


@dataclass(frozen=True)
class Scan:
    """One of the unit's two scans.

    Cells are `range_cell` metres by `doppler_cell` m/s by an azimuth that grows from the middle to the side:
    `azimuth_cells` (radians) at `azimuths`. `losses` is the two-way loss (dB) of the antenna at `loss_azimuths`;
    `faintest` the cross-section (dBsm) that is just seen at 100 m straight ahead.
    """

    half_view: float
    reach: tuple[float, float]
    range_cell: float
    doppler_cell: float
    azimuths: tuple[float, ...]
    azimuth_cells: tuple[float, ...]
    loss_azimuths: tuple[float, ...]
    losses: tuple[float, ...]
    faintest: float
    range_noise: float
    azimuth_noises: tuple[float, ...]
    doppler_noise: float

    @cached_property
    def azimuth_bins(self) -> tuple[Float64[Array, "K"], Float64[Array, "K"]]:
        """Azimuths from the middle to the rear, and how many cells lie between the middle and each."""
        azimuths = np.linspace(0.0, np.pi, 721)
        density = 1.0 / np.interp(azimuths, self.azimuths, self.azimuth_cells)
        return azimuths, np.append(0.0, np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(azimuths)))

    def faintest_at(self, ranges: Float64[Array, "N"], azimuths: Float64[Array, "N"]) -> Float64[Array, "N"]:
        """The cross-section (dBsm) that is just heard from there: power falls with the fourth power of the range."""
        loss = np.interp(np.abs(azimuths), self.loss_azimuths, self.losses)
        return np.asarray(self.faintest + loss + 40.0 * np.log10(np.maximum(ranges, 0.5) / 100.0))


def _radians(*degrees: float) -> tuple[float, ...]:
    return tuple(float(v) for v in np.radians(degrees))


NEAR = Scan(
    half_view=float(np.radians(60.0)),
    reach=(1.0, 130.0),
    range_cell=0.39,
    doppler_cell=0.12,
    azimuths=_radians(0.0, 45.0, 60.0, 76.0),
    azimuth_cells=_radians(3.2, 4.5, 12.3, 14.0),
    loss_azimuths=_radians(0.0, 20.0, 45.0, 60.0, 76.0),
    losses=(0.0, 2.0, 15.0, 30.0, 50.0),
    faintest=-5.0,
    range_noise=0.1,
    azimuth_noises=_radians(0.3, 1.0, 3.0, 4.0),
    doppler_noise=0.08,
)
FAR = Scan(
    half_view=float(np.radians(9.0)),
    reach=(7.0, 250.0),
    range_cell=1.79,
    doppler_cell=0.10,
    azimuths=_radians(0.0, 9.0, 16.0, 76.0),
    azimuth_cells=_radians(1.6, 1.6, 3.0, 10.0),
    loss_azimuths=_radians(0.0, 9.0, 12.0, 18.0, 76.0),
    losses=(0.0, 2.0, 17.0, 40.0, 60.0),
    faintest=-3.0,
    range_noise=0.3,
    azimuth_noises=_radians(0.1, 0.1, 0.5, 2.0),
    doppler_noise=0.06,
)
