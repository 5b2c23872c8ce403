"""Memory in files: mostly holes, which stay holes."""

import os

_COPY_BYTES = 8 << 20


def copy_sparse(source: int, target: int) -> None:
    """The whole of one descriptor's file into another's, from its beginning. Raises `OSError`."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but holes from here on
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end:
            data = os.pread(source, min(_COPY_BYTES, end - start), start)
            if not data:
                return
            start += os.pwrite(target, data, start)
        at = end
