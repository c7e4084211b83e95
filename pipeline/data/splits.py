"""Which split a document belongs to: decided by its own hash, whatever stands around it."""

import hashlib
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HASH_BITS = 64


def split_of(key: bytes, validation_fraction: float, test_fraction: float) -> Split:
    """Choose the split of a key.

    Rows that are added or moved around change nothing for the others. Validation is cut from one
    end of the range of hashes and test from the other, so that a new fraction for the one leaves
    the other as it was.
    """
    value = int.from_bytes(hashlib.blake2b(key, digest_size=HASH_BITS // 8).digest())
    place = value / 2**HASH_BITS
    if place < test_fraction:
        return "test"
    if place >= 1 - validation_fraction:
        return "validation"
    return "train"
