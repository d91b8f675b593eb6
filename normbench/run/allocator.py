"""Memory that is freed and soon wanted again is kept, not handed back to the system."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 32 * 2**20  # the largest M_MMAP_THRESHOLD glibc takes
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Asks glibc's allocator to keep what is freed; does nothing where there is another.

    By default glibc maps activations of more than 128 KiB anew at every step, and the system
    clears them page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
