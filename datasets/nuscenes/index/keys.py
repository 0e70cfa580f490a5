"""Tokens as 128-bit keys: what refers to a record is found in a hash table of its table's keys.

A nuScenes token, 32 lower-case hexadecimal digits, is its own key: its 16 bytes. Any other text stands for itself
by 16 bytes of its BLAKE2b digest.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datasets.compiled import compiled

TOKEN_BYTES = 16
_DIGITS = b"0123456789abcdef"
# The key of the empty text, which links use for none.
_NO_TOKEN = hashlib.blake2b(b"", digest_size=TOKEN_BYTES).hexdigest()
# Keys (N, 2): the high and the low half, so that they sort as the digits do.
Keys = NDArray[np.uint64]
EMPTY_KEY: Keys = np.frombuffer(bytes.fromhex(_NO_TOKEN), ">u8").astype(np.uint64)


def keys_of(tokens: Sequence[str]) -> tuple[Keys, bool]:
    """Keys (N, 2) of tokens, and whether all of them are nuScenes tokens or empty."""
    lengths = set(map(len, tokens))
    if lengths <= {0, 2 * TOKEN_BYTES}:
        digits = "".join([token or _NO_TOKEN for token in tokens] if 0 in lengths else tokens).encode(errors="replace")
        if not digits.translate(None, _DIGITS):
            return _from_bytes(bytes.fromhex(digits.decode())), True
    keys = {token: _key_bytes(token) for token in dict.fromkeys(tokens)}
    return _from_bytes(b"".join(map(keys.__getitem__, tokens))), all(map(is_hexadecimal, filter(None, keys)))


def is_hexadecimal(token: str) -> bool:
    """Whether it is a token as nuScenes' own are."""
    return len(token) == 2 * TOKEN_BYTES and token.isascii() and not token.encode().translate(None, _DIGITS)


def texts_of(keys: Keys) -> list[str]:
    """The tokens (N) of keys (N, 2) of nuScenes tokens."""
    digits = packed(keys).tobytes().hex()
    return [digits[start : start + 2 * TOKEN_BYTES] for start in range(0, len(digits), 2 * TOKEN_BYTES)]


def packed(keys: Keys) -> NDArray[np.uint8]:
    """Keys as bytes (N, 16)."""
    return np.ascontiguousarray(keys).astype(">u8").view(np.uint8).reshape(-1, TOKEN_BYTES)


def _key_bytes(token: str) -> bytes:
    if is_hexadecimal(token):
        return bytes.fromhex(token)
    # JSON may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    return hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=TOKEN_BYTES).digest()


def _from_bytes(content: bytes) -> Keys:
    return np.frombuffer(content, ">u8").astype(np.uint64).reshape(-1, 2)


class KeyTable:
    """The rows of a table by key."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        # At most half full, so that probing stays short.
        self._slots = np.full(1 << max(2 * len(keys) - 1, 1).bit_length(), -1, dtype=np.int32)
        # For each row the first one with its key: itself, unless the key occurs twice.
        self.first_rows = _fill(keys, self._slots)

    def rows_of(self, keys: Keys) -> NDArray[np.int32]:
        """The row of each key, -1 where there is none."""
        return _find(self._keys, self._slots, keys)


@compiled
def _slot_of(high: np.uint64, low: np.uint64, mask: np.uint64) -> np.int64:
    # Tokens that someone counted up differ in a few bits only: two rounds of multiplying spread them.
    mixed = high * np.uint64(0x9E3779B97F4A7C15) ^ low
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & mask)


@compiled
def _fill(keys: Keys, slots: NDArray[np.int32]) -> NDArray[np.int32]:
    mask = np.uint64(len(slots) - 1)
    first = np.empty(len(keys), dtype=np.int32)
    for row in range(len(keys)):
        slot = _slot_of(keys[row, 0], keys[row, 1], mask)
        while slots[slot] >= 0:
            other = slots[slot]
            if keys[other, 0] == keys[row, 0] and keys[other, 1] == keys[row, 1]:
                break
            slot = (slot + 1) & np.int64(mask)
        if slots[slot] < 0:
            slots[slot] = row
        first[row] = slots[slot]
    return first


@compiled
def _find(keys: Keys, slots: NDArray[np.int32], wanted: Keys) -> NDArray[np.int32]:
    mask = np.uint64(len(slots) - 1)
    found = np.full(len(wanted), -1, dtype=np.int32)
    for index in range(len(wanted)):
        slot = _slot_of(wanted[index, 0], wanted[index, 1], mask)
        while slots[slot] >= 0:
            row = slots[slot]
            if keys[row, 0] == wanted[index, 0] and keys[row, 1] == wanted[index, 1]:
                found[index] = row
                break
            slot = (slot + 1) & np.int64(mask)
    return found
