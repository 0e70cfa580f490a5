"""Which map mask belongs to a scene: nuScenes' tables scene and map, and the pictures that the latter names."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets.faults import InputRefused, SensorFileError
from datasets.nuscenes.files import read_file
from datasets.nuscenes.mask_png import decode_mask
from datasets.nuscenes.values import read_json
from datasets.samples.map_raster import MapMask
from datasets.samples.sample import MAP_CLASSES

_SEMANTIC_PRIOR = MAP_CLASSES[0]


class MapMasks:
    """The masks of some scenes, all read at once: processes that are forked afterwards share their memory.

    The four masks of the whole of nuScenes take 370 MB. Raises InputRefused, naming the scene and what is missing,
    where a scene has none.
    """

    def __init__(self, root: Path, version: str, scenes: Iterable[str]) -> None:
        files = _mask_files(root, version)
        self._mask_of_scene: dict[str, MapMask] = {}
        read: dict[str, MapMask] = {}
        for scene in sorted(set(scenes)):
            if scene not in files:
                raise InputRefused(
                    f"{root / version}: {scene} has no map mask (map.json names none of its log), so map segmentation "
                    "cannot be learnt from it: take `segmentation` out of the config, or choose other scenes."
                )
            name = files[scene]
            if name not in read:
                try:
                    read[name] = decode_mask(read_file(root, name), str(root / name))
                except SensorFileError as error:
                    raise InputRefused(
                        f"{root}: the map mask of {scene} cannot be read ({error}); the masks come with nuScenes' "
                        "metadata, or take `segmentation` out of the config."
                    ) from error
            self._mask_of_scene[scene] = read[name]

    def of_scene(self, name: str) -> Mapping[str, MapMask]:
        """See MapSource."""
        if name not in self._mask_of_scene:
            raise InputRefused(f"the map mask of {name} was not asked for when the masks were read.")
        return {_SEMANTIC_PRIOR: self._mask_of_scene[name]}


def _mask_files(root: Path, version: str) -> dict[str, str]:
    """The name of the mask of each scene that has one. Raises InputRefused for tables that are missing or broken."""
    folder = root / version
    for table in ("scene", "map"):
        if not (folder / f"{table}.json").is_file():
            raise InputRefused(
                f"{folder / table}.json is missing, and map segmentation needs it: nuScenes' metadata has it; or take "
                "`segmentation` out of the config."
            )
    file_of_log: dict[str, str] = {}
    for row in _rows(folder / "map.json", "category", "filename", "log_tokens"):
        if row["category"] == _SEMANTIC_PRIOR and isinstance(row["log_tokens"], list):
            file_of_log |= {str(log): str(row["filename"]) for log in row["log_tokens"]}
    scenes = _rows(folder / "scene.json", "name", "log_token")
    return {
        str(row["name"]): file_of_log[str(row["log_token"])] for row in scenes if str(row["log_token"]) in file_of_log
    }


def _rows(path: Path, *fields: str) -> list[Mapping[str, object]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(fields) <= row.keys() for row in rows):
        raise InputRefused(f"{path}: a table is a list of records with {', '.join(fields)}; this is none.")
    return rows
