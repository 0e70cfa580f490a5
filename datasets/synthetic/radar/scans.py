"""From echoes to detections: the near and the far scan of the ARS 408-21, their resolution cells and what is in them.

The states are those of Continental's "Standardized ARS Interface" for this unit (cluster quality).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from datasets.arrays import Array
from datasets.compiled import compiled
from datasets.synthetic.radar.echoes import Echoes
from datasets.synthetic.radar.unit import LOWEST_RCS, NEAR, Scan

# States of a cluster that the unit reports. The devkit's filters keep VALID alone.
VALID, NOT_CONFIRMED, LOW_RCS, OUTSIDE_VIEW, ELEVATED, CHILD, ARTEFACT_50, NO_MAXIMUM, BEYOND_95, MULTI_TARGET = (
    0, 3, 4, 7, 8, 9, 10, 11, 15, 16,
)  # fmt: skip

# dB; and the shares of flanks and children that are not reported, of several targets in a bin that are marked.
_TOO_WEAK = 4.0
_FLANK_DROPPED, _CHILD_DROPPED, _MULTI_MARKED = 0.75, 0.6, 0.9


@dataclass(frozen=True)
class Detections:
    """D detections of one scan by rising range, as measured. Ranges in metres, azimuths in radians, `doppler` in m/s
    (positive: going away), `rcs` in dBsm; `states` are invalid states, `owners` road users' numbers or BACKGROUND.
    """

    ranges: Float64[Array, "D"]
    azimuths: Float64[Array, "D"]
    doppler: Float64[Array, "D"]
    rcs: Float64[Array, "D"]
    states: Int64[Array, "D"]
    owners: Int64[Array, "D"]


def detect(echoes: Echoes, scan: Scan, rng: np.random.Generator) -> Detections:
    """What a scan reports of the echoes. What lies in one resolution cell is one detection."""
    within = (echoes.ranges >= scan.reach[0]) & (echoes.ranges <= scan.reach[1])
    # Even several echoes in a cell do not make one of those that are too weak by this much.
    within &= echoes.rcs > scan.faintest_at(echoes.ranges, echoes.azimuths) - _TOO_WEAK
    index = within.nonzero()[0]
    ranges, azimuths, doppler, power, owners, cells = _merged(echoes, index, scan)
    rcs = 10.0 * np.log10(power)
    heard = (rcs > scan.faintest_at(ranges, azimuths)) & (rcs > LOWEST_RCS - 0.25)
    order = heard.nonzero()[0]
    order = order[np.argsort(ranges[order], kind="stable")]
    ranges, azimuths, doppler, rcs, owners = (a[order] for a in (ranges, azimuths, doppler, rcs, owners))
    kept, states = _examined(ranges, azimuths, rcs, cells[order], scan, rng)
    ranges, azimuths, doppler, rcs, owners = (a[kept] for a in (ranges, azimuths, doppler, rcs, owners))
    noise = rng.normal(0.0, 1.0, (3, len(kept)))
    return Detections(
        ranges=np.maximum(ranges + scan.range_noise * noise[0], 0.5),
        azimuths=azimuths + np.interp(np.abs(azimuths), scan.azimuths, scan.azimuth_noises) * noise[1],
        doppler=doppler + scan.doppler_noise * noise[2],
        rcs=rcs,
        states=states,
        owners=owners,
    )


def cells_of(echoes: Echoes, scan: Scan) -> Int64[Array, "E 3"]:
    """The resolution cell of each echo: numbers of its range, Doppler and azimuth bins."""
    azimuths, counted = scan.azimuth_bins
    azimuth = np.sign(echoes.azimuths) * np.interp(np.abs(echoes.azimuths), azimuths, counted)
    bins = np.column_stack([echoes.ranges / scan.range_cell, echoes.doppler / scan.doppler_cell, azimuth + 0.5])
    return np.floor(bins).astype(np.int64)


def _merged(
    echoes: Echoes, index: Int64[Array, "N"], scan: Scan
) -> tuple[
    Float64[Array, "C"], Float64[Array, "C"], Float64[Array, "C"], Float64[Array, "C"], Int64[Array, "C"],
    Int64[Array, "C 3"],
]:  # fmt: skip
    """Ranges, azimuths, Doppler (middles weighted by power), power in square metres, owner, cell of each full cell."""
    cells = cells_of(echoes, scan)[index]
    power = 10.0 ** (echoes.rcs[index] / 10.0)
    key = (cells[:, 0] * 4096 + cells[:, 1] + 2048) * 256 + cells[:, 2] + 128
    _, first, member = np.unique(key, return_index=True, return_inverse=True)
    total = np.maximum(np.bincount(member, power, len(first)), 1e-12)
    middles = [
        np.bincount(member, values[index] * power, len(first)) / total
        for values in (echoes.ranges, echoes.azimuths, echoes.doppler)
    ]
    strongest = np.lexsort((power, member))[np.searchsorted(np.sort(member), np.arange(len(first)), side="right") - 1]
    return middles[0], middles[1], middles[2], total, echoes.owners[index][strongest], cells[first]


def _examined(
    ranges: Float64[Array, "D"],
    azimuths: Float64[Array, "D"],
    rcs: Float64[Array, "D"],
    cells: Int64[Array, "D 3"],
    scan: Scan,
    rng: np.random.Generator,
) -> tuple[Int64[Array, "K"], Int64[Array, "K"]]:
    """Which detections are reported, and the state of each.

    Beside a stronger one most are taken for its flank and dropped; others are reported as what they are.
    """
    chance = rng.random((3, len(ranges)))
    width = np.interp(np.abs(azimuths), scan.azimuths, scan.azimuth_cells)
    flank, child, multi = _neighbours(ranges, azimuths, rcs, cells, width, scan.range_cell)
    reported = ~(flank & (chance[0] < _FLANK_DROPPED)) & ~(child & ~flank & (chance[0] < _CHILD_DROPPED))
    view = np.abs(azimuths) > scan.half_view
    states = np.full(len(ranges), VALID)
    low = (rcs < 0.0) & (chance[1] < 0.8 * np.clip((ranges - 15.0) / 15.0, 0.0, 1.0))
    edge = (np.abs(azimuths) > np.radians(48.0)) & (np.abs(azimuths) < np.radians(52.5))
    marks: list[tuple[int, Bool[Array, D]]] = [(LOW_RCS, low)]
    if scan is NEAR:
        marks.append((BEYOND_95, (ranges > 95.0) & (chance[2] < 0.5)))
        marks.append((ARTEFACT_50, edge & (chance[2] < 0.4)))
    else:
        marks.append((ELEVATED, (ranges < 15.0) & (chance[2] < 0.5)))
    marks += [(MULTI_TARGET, multi & (chance[1] < _MULTI_MARKED)), (CHILD, child), (NO_MAXIMUM, flank)]
    for state, marked in marks:
        states[marked] = state
    states[view] = OUTSIDE_VIEW
    kept = reported.nonzero()[0]
    return kept, states[kept]


@compiled
def _neighbours(ranges, azimuths, rcs, cells, width, range_cell):  # type: ignore[no-untyped-def]
    """Which detections (by rising range) lie on the flank of a stronger one, or near a much stronger one, or share
    their range and Doppler cell with another direction."""
    count = len(ranges)
    flank, child, multi = np.zeros(count, np.bool_), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for i in range(count):
        for step in (-1, 1):
            j = i + step
            while 0 <= j < count and abs(ranges[j] - ranges[i]) < 6.0 * range_cell:
                aside = abs(azimuths[i] - azimuths[j])
                apart = abs(cells[i, 1] - cells[j, 1])
                close = abs(ranges[j] - ranges[i]) < 2.0 * range_cell and aside < 1.5 * width[i]
                if rcs[j] > rcs[i] and close and apart <= 3:
                    flank[i] = True
                if rcs[j] > rcs[i] + 6.0 and aside < 2.5 * width[i] and apart <= 6:
                    child[i] = True
                if cells[i, 0] == cells[j, 0] and abs(cells[i, 1] - cells[j, 1]) < 2 and aside > width[i]:
                    multi[i] = True
                j += step
    return flank, child, multi
