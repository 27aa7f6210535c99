"""A random number generator that counts rather than keeps a state: a few operations on any device, which can be traced."""

from __future__ import annotations

from torch import Tensor

__all__ = ["split_mix"]


def split_mix(x: Tensor) -> Tensor:
    """A bijection of int64 that spreads its bits: the finaliser of SplitMix64, with arithmetic shifts masked to logical ones.

    References:
        Steele, Lea, Flood. Fast Splittable Pseudorandom Number Generators. OOPSLA 2014.
    """
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
