"""Unsigned integers that order as floating-point numbers do, for counting by digits."""

from __future__ import annotations

import numpy as np


def order_bits(values: np.ndarray) -> np.ndarray:
    """uint32 for float32, uint64 for float64, without NaN: smaller where the value is, equal where values are equal."""
    unsigned = np.dtype(f"u{values.itemsize}").type
    sign = unsigned(8 * values.itemsize - 1)
    bits = (values + values.dtype.type(0)).view(unsigned)  # + 0: minus zero is zero
    flips = (bits.view(f"i{values.itemsize}") >> sign.astype(f"i{values.itemsize}")).view(unsigned)
    flips |= unsigned(1) << sign  # all bits of a negative number, the sign of others
    bits ^= flips
    return bits


def from_order_bits(bits: np.ndarray) -> np.ndarray:
    """The numbers that :func:`order_bits` made ``bits`` of."""
    unsigned = bits.dtype.type
    sign = unsigned(8 * bits.itemsize - 1)
    return np.where(bits >> sign, bits ^ unsigned(1) << sign, ~bits).view(f"f{bits.itemsize}")
