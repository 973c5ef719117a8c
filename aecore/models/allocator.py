"""The C library's allocator, told that a training step asks for the same memory again and again."""

from __future__ import annotations

import ctypes
import functools

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2
"""`man 3 mallopt`: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the kernel; False where the C library is another.

    By default it asks the kernel for every tensor of more than a few hundred kB and returns it when freed, so that each
    step touches some 2,000 fresh pages. Measured on two cores, bf16: default recipe, batch 64, 1.3 to 1.5 times the
    images/s; the reference network, batch 128, 1.4 times; peak memory the same (`benchmarks/train.py --ablate`).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc: macOS, musl, Windows
        return False
    return all([mallopt(MMAP_THRESHOLD, 32 << 20), mallopt(TRIM_THRESHOLD, 2**31 - 1), mallopt(TOP_PAD, 64 << 20)])
