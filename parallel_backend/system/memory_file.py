"""Memory files: memory that processes share by a descriptor. The size of /dev/shm does not matter to them."""

import os


def new_memory_file(name: str, size: int) -> int:
    """The descriptor, closed at exec, of `size` bytes of zeros. Raises OSError when memory is exhausted."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
