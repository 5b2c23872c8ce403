"""Messages of a conversation with an instance: one byte that says what the rest is.

0 to its stdin (empty: end-of-file)    1 its stdout    2 its stderr    3 a `Word`, as JSON
"""

from typing import Literal

import msgspec

from skerry.kit.record import Record, encode

STDIN, STDOUT, STDERR, WORD = 0, 1, 2, 3
MESSAGE_BYTES_MAX = 64 * 1024  # of any message; larger data is cut into several

Channel = Literal[0, 1, 2]


class Resize(Record, tag_field="word", tag="resize"):
    """The client's terminal has another size."""

    rows: int
    columns: int


class Signal(Record, tag_field="word", tag="signal"):
    number: int


class Exit(Record, tag_field="word", tag="exit"):
    """The last message of an orderly end."""

    code: int


class Failed(Record, tag_field="word", tag="failed"):
    """The last message when it could not be done; for people."""

    message: str
    hint: str = ""


Word = Resize | Signal | Exit | Failed
_WORD: msgspec.json.Decoder[Word] = msgspec.json.Decoder(Word)


class NotAFrame(Exception):
    """What came is no message of this kind."""


def data_frame(channel: int, data: bytes) -> bytes:
    return bytes((channel,)) + data


def word_frame(word: Word) -> bytes:
    return bytes((WORD,)) + encode(word)


def parse(message: bytes) -> tuple[Channel, bytes] | Word:
    """Raises `NotAFrame`."""
    if not message or len(message) > MESSAGE_BYTES_MAX + 1:
        raise NotAFrame(f"a message of {len(message)} bytes")
    match message[0]:
        case 0 | 1 | 2 as channel:
            return channel, message[1:]
        case 3:
            try:
                return _WORD.decode(message[1:])
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise NotAFrame(str(error)) from error
        case other:
            raise NotAFrame(f"a message of kind {other}")
