"""Memory of a clone, page by page: a process that answers the page faults of one Firecracker (userfaultfd).

    python -m skerry.adapters.sandbox.firecracker.pages <socket's descriptor> <memory file's descriptor>

Firecracker connects once and sends, as one message, the regions of its memory (JSON) with the descriptor that tells of
faults. From then on each first touch of a page stands still until it is copied here. The socket's end is the only sign of
the monitor's: then this ends too. It has a record and a group beside the machine's, so whoever removes the machine ends
both; if this dies first, the monitor hangs, and its API with it.
"""

import array
import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import sys

import msgspec

MESSAGE_BYTES_MAX = 65536
REGIONS_MAX = 64
FAULT_BYTES = 32  # struct uffd_msg
_COPY = 0xC028AA03  # UFFDIO_COPY
_EVENT_FAULT, _EVENT_REMOVE = 0x12, 0x15


class Region(msgspec.Struct, frozen=True):
    """Where `size` bytes of the memory file from `offset` are in the monitor."""

    base_host_virt_addr: int
    size: int
    offset: int
    page_size: int = 4096


class BadMonitor(Exception):
    """It sent what it would not send."""


def receive(listener: socket.socket) -> tuple[socket.socket, int, list[Region]]:
    """Its connection, its descriptor of faults and its regions. Raises `BadMonitor`."""
    connection, _ = listener.accept()
    message, controls, _, _ = connection.recvmsg(MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4))
    descriptors = array.array("i")
    for level, kind, data in controls:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if len(descriptors) != 1:
        raise BadMonitor(f"{len(descriptors)} descriptors instead of one")
    try:
        regions = msgspec.json.decode(message, type=list[Region])
    except msgspec.DecodeError as error:
        raise BadMonitor(f"its regions: {error}") from error
    return connection, descriptors[0], regions


def checked(regions: list[Region], memory_bytes: int) -> list[Region]:
    """What it says, if that is within the file. Raises `BadMonitor`."""
    if not 0 < len(regions) <= REGIONS_MAX:
        raise BadMonitor(f"{len(regions)} regions")
    for region in regions:
        if region.page_size != mmap.PAGESIZE or region.offset % region.page_size or region.size % region.page_size:
            raise BadMonitor(f"a region that is not made of pages: {region}")
        if region.offset < 0 or region.size <= 0 or region.offset + region.size > memory_bytes:
            raise BadMonitor(f"a region outside of the memory: {region}")
    return regions


class Server:
    """Copies pages into one monitor. `memory` is the file, mapped; `faults` tells which are missing."""

    def __init__(self, faults: int, regions: list[Region], memory: mmap.mmap) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._faults, self._regions = faults, regions
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._zeros = ctypes.create_string_buffer(mmap.PAGESIZE)
        self._removed: set[int] = set()  # given back by the balloon: they come again as zeros
        os.set_blocking(faults, False)

    def serve(self, connection: socket.socket) -> int:
        """Until the monitor ends; how many pages were served. Raises `OSError` when the kernel refuses one."""
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        poller.register(self._faults, select.POLLIN)
        served = 0
        while True:
            ready = dict(poller.poll())
            if connection.fileno() in ready and not connection.recv(1):
                return served
            if ready.get(self._faults, 0) & (select.POLLHUP | select.POLLERR):
                return served
            for event, address, end in _messages(self._faults):
                if event == _EVENT_REMOVE:
                    self._removed.update(range(address, end, mmap.PAGESIZE))
                elif event == _EVENT_FAULT:
                    served += self._copy(address - address % mmap.PAGESIZE)

    def _copy(self, address: int) -> int:
        source = self._source(address)
        request = ctypes.create_string_buffer(struct.pack("<QQQQq", address, source, mmap.PAGESIZE, 0, 0))
        if self._libc.ioctl(self._faults, ctypes.c_ulong(_COPY), request) == 0 or ctypes.get_errno() == errno.EEXIST:
            return 1
        if ctypes.get_errno() in (errno.EAGAIN, errno.ENOENT, errno.ESRCH):
            return 0  # the monitor changes its memory, or ends: it faults again, or not
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def _source(self, address: int) -> int:
        for region in self._regions:
            if region.base_host_virt_addr <= address < region.base_host_virt_addr + region.size:
                if address not in self._removed:
                    return self._base + region.offset + address - region.base_host_virt_addr
                break
        return ctypes.addressof(self._zeros)


def _messages(faults: int) -> list[tuple[int, int, int]]:
    """(event, address, end) of all that wait."""
    try:
        data = os.read(faults, 64 * FAULT_BYTES)
    except BlockingIOError:
        return []
    found: list[tuple[int, int, int]] = []
    for at in range(0, len(data) - FAULT_BYTES + 1, FAULT_BYTES):
        event = data[at]
        first, second = struct.unpack_from("<QQ", data, at + 8)
        found.append((event, second, 0) if event == _EVENT_FAULT else (event, first, second))
    return found


def main(listener_fd: int, memory_fd: int) -> int:
    with socket.socket(fileno=listener_fd) as listener:
        fcntl.fcntl(memory_fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        memory = mmap.mmap(memory_fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        connection, faults, regions = receive(listener)
    Server(faults, checked(regions, len(memory)), memory).serve(connection)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
    except BadMonitor as refused:
        sys.exit(f"page server: {refused}")
