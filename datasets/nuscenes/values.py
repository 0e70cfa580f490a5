"""What a value in one of nuScenes' JSON files may be, and how a file is read and refused."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from datasets.faults import InputRefused

# Microseconds since 1970: a stamp outside the years 2000 to 2100 is in another unit.
EARLIEST_US, LATEST_US = 946_684_800_000_000, 4_102_444_800_000_000
# No length or position in metres comes near it.
LARGEST_SUM = 1e15
QUATERNION_TOLERANCE = 1e-3
MOST_ATTRIBUTES = 8
LONGEST_TOKEN = 1024  # bytes of UTF-8; nuScenes' have 32
# Bytes. No record of a table comes near it: where this much text does not make one, the file is broken.
LONGEST_RECORD = 16 * 2**20

_NUMBERS = frozenset((int, float))


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


def _is_token(value: Any) -> bool:
    return _is_name(value) and len(value.encode(errors="surrogatepass")) <= LONGEST_TOKEN


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_extent(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_positive(value: Any) -> bool:
    return _is_extent(value) and value > 0


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_timestamp(value: Any) -> bool:
    return type(value) is int and EARLIEST_US <= value <= LATEST_US


def is_vector(value: Any, length: int = 3) -> bool:
    """Whether a JSON value is a list of `length` finite numbers."""
    return (
        type(value) is list
        and len(value) == length
        and _NUMBERS.issuperset(map(type, value))
        # Refuses infinities and NaN, and integers that no float can hold.
        and sum(map(abs, value)) < LARGEST_SUM
    )


def _is_quaternion(value: Any) -> bool:
    return is_vector(value, 4) and abs(math.hypot(*value) - 1.0) <= QUATERNION_TOLERANCE


def _is_size(value: Any) -> bool:
    return is_vector(value) and min(value) > 0


def _is_intrinsic(value: Any) -> bool:
    if value == []:
        return True
    if type(value) is not list or len(value) != 3 or not all(map(is_vector, value)):
        return False
    return bool(value[0][0] > 0 < value[1][1] and value[1][0] == 0 and value[2] == [0, 0, 1])


def _is_attribute_list(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_ATTRIBUTES and all(map(_is_name, value))


def _is_relative_path(value: Any) -> bool:
    if not _is_name(value) or value.startswith("/") or "\0" in value:
        return False
    return ".." not in value or ".." not in value.split("/")


@dataclass(frozen=True)
class Kind:
    """What a field may hold."""

    accepts: Callable[[Any], bool]
    expected: str


TEXT = Kind(_is_text, "text")
NAME = Kind(_is_name, "text that is not empty")
TOKEN = Kind(_is_token, f"text that is not empty, of at most {LONGEST_TOKEN} bytes")
COUNT = Kind(_is_count, "a whole number >= 0")
EXTENT = Kind(_is_extent, "a number of pixels, 0 where there are none")
PIXELS = Kind(_is_positive, "a positive number of pixels")
FLAG = Kind(_is_flag, "true or false")
TIME = Kind(_is_timestamp, "a whole number of microseconds since 1970, in the years 2000 to 2100")
VECTOR = Kind(is_vector, "3 finite numbers")
SCORE = Kind(lambda value: is_vector([value], 1), "a finite number")
QUATERNION = Kind(_is_quaternion, "a rotation quaternion [w, x, y, z] of length 1")
SIZE = Kind(_is_size, "3 positive numbers (width, length, height in metres)")
INTRINSIC = Kind(
    _is_intrinsic,
    "a 3 x 3 camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths, or [] for other sensors",
)
ATTRIBUTES = Kind(_is_attribute_list, f"a list of at most {MOST_ATTRIBUTES} attribute tokens")
PATH = Kind(_is_relative_path, "a path relative to the dataroot that does not leave it")


def read_json(path: Path) -> Any:
    """A JSON file. NaN and Infinity, which JSON does not have, come as text and then fail their field's check."""
    try:
        return json.loads(path.read_text("utf-8-sig"), parse_constant=str)
    except FileNotFoundError:
        raise InputRefused(f"{path}: the file is missing.") from None
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputRefused(f"{path}: not valid JSON at {problem}; is the download complete?") from None
    except RecursionError:
        raise InputRefused(f"{path}: not readable as JSON: nested too deeply.") from None
    except (OSError, ValueError) as error:
        raise InputRefused(f"{path}: not readable as JSON: {error}.") from None


def refuse_value(path: Path, token: str, field: str, expected: str, found: Any, others: int = 0) -> NoReturn:
    """Raise InputRefused for one value of one record; `others` more records have the same problem."""
    shown = repr(found)
    shown = shown if len(shown) <= 100 else shown[:100] + " ..."
    more = f" (and {others} more such records)" if others else ""
    raise InputRefused(f"{path}: record {token!r:.80}, field {field}: expected {expected}, found {shown}{more}.")
