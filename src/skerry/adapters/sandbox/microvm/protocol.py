"""The agent protocol: frames between the host and PID 1 of a microVM, over any stream (a virtio port, a vsock connection).

    magic "SKG" version(1) | u8 type | u8 0 | u16 channel | u32 length | u32 crc32 of all of it but itself | payload

Little-endian. The checksum and the magic are there to find the next frame again: a virtio port is never closed on the
guest's side, so a host that was killed in the middle of one leaves half a frame, and the next host begins behind it. HELLO
with a nonce starts a session and ends all that the one before had opened; WELCOME repeats the nonce.

Channel 0 is the guest itself. A request takes a free channel and is answered on it by DONE or FAILED; EXEC and the copies
keep theirs until ENDED. Each side sends at most WINDOW_BYTES on such a channel that the other has not yet taken (CREDIT
from the guest, WINDOW from the host), so that one that does not read holds back its own process alone.

The guest's side is guest/frame.c; it is written by us, but what comes from a guest is as hostile as its program.
"""

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"SKG\x01"
HEADER = struct.Struct("<4sBBHI")
HEADER_BYTES = HEADER.size + 4
PAYLOAD_BYTES_MAX = 65536  # of one frame: both sides hold one
WINDOW_BYTES = 65536
CHANNELS_MAX = 32  # processes at once, beside the program
FIELD = struct.Struct("<HI")
FIELD_BYTES_MAX = 60_000  # one argument, variable or part of a file: with its head well inside one frame
VSOCK_PORT = 1024


class ProtocolError(Exception):
    """The other side says what cannot be."""


class Type(IntEnum):
    HELLO = 1
    CONFIG = 2
    RUN = 3
    SIGNAL = 4
    EXEC = 5
    COPY_OUT = 6
    COPY_IN = 7
    DATA = 8
    EOF = 9
    WINDOW = 10
    TTY_SIZE = 11
    CLOSE = 12
    LIMITS = 13
    PING = 14
    EXIT_SEEN = 15
    IDENTITY = 16
    STATS = 17
    WELCOME = 64
    DONE = 65
    FAILED = 66
    OUT = 67
    ERR = 68
    OUT_EOF = 69
    ENDED = 70
    CREDIT = 71
    EXITED = 72


class Tag(IntEnum):
    ARG = 1
    ENV = 2
    CWD = 3
    USER = 4
    GROUP = 5
    HOSTNAME = 6
    WRITABLE_MIB = 7
    READ_ONLY = 8
    MEMORY = 9
    PIDS = 10
    STOP_SIGNAL = 11
    FILE = 12
    FILE_DATA = 13
    ENTROPY = 14
    CLOCK = 15
    MAC = 16
    ADDRESS = 17
    GATEWAY = 18
    GATEWAY_MAC = 19
    DNS = 20
    TERMINAL = 21
    PATH = 22


class GuestState(IntEnum):
    FRESH = 0
    RUNNING = 1
    EXITED = 2


class Frame(NamedTuple):
    type: int
    channel: int
    payload: bytes


def frame(kind: Type, channel: int = 0, payload: bytes = b"") -> bytes:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a frame of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}")
    head = HEADER.pack(MAGIC, kind, 0, channel, len(payload))
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def padding() -> bytes:
    """Completes whatever frame the other side still waits for; its checksum is then wrong, and the next frame is found."""
    return bytes(HEADER_BYTES + PAYLOAD_BYTES_MAX)


def field(tag: Tag, value: bytes) -> bytes:
    if len(value) > FIELD_BYTES_MAX:
        raise ValueError(f"{tag.name.lower()} of {len(value)} bytes; at most {FIELD_BYTES_MAX}")
    return FIELD.pack(tag, len(value)) + value


def packed(fields: list[bytes]) -> Iterator[bytes]:
    """Fields in as few payloads as they fit in, in order."""
    payload = b""
    for each in fields:
        if payload and len(payload) + len(each) > PAYLOAD_BYTES_MAX:
            yield payload
            payload = b""
        payload += each
    if payload:
        yield payload


class Parser:
    """Bytes in, whole and checked frames out. What cannot be a frame is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames: list[Frame] = []
        while (found := self._next()) is not None:
            frames.append(found)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        while True:
            start = buffer.find(MAGIC)
            if start < 0:
                del buffer[: max(0, len(buffer) - len(MAGIC) + 1)]
                return None
            del buffer[:start]
            if len(buffer) < HEADER_BYTES:
                return None
            _, kind, _, channel, length = HEADER.unpack_from(buffer)
            if length > PAYLOAD_BYTES_MAX:
                del buffer[:1]
                continue
            if len(buffer) < HEADER_BYTES + length:
                return None
            payload = bytes(buffer[HEADER_BYTES : HEADER_BYTES + length])
            if zlib.crc32(payload, zlib.crc32(bytes(buffer[: HEADER.size]))) != int.from_bytes(
                buffer[HEADER.size : HEADER_BYTES], "little"
            ):
                del buffer[:1]
                continue
            del buffer[: HEADER_BYTES + length]
            return Frame(kind, channel, payload)
