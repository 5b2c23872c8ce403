"""Frames of the agent protocol: whole ones are found in whatever order the bytes come, broken ones never become one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.adapters.sandbox.microvm import fields
from skerry.adapters.sandbox.microvm.protocol import (
    FIELD_BYTES_MAX,
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Parser,
    Tag,
    Type,
    field,
    frame,
    packed,
    padding,
)
from skerry.ports.sandbox import GuestNetwork, Mount, SandboxFile, SandboxLimits, SandboxSpec, StartError, Unsupported

FRAMES = st.lists(st.tuples(st.sampled_from(list(Type)), st.integers(0, 65535), st.binary(max_size=300)), max_size=6)
SPEC = SandboxSpec(
    id="0" * 16, rootfs="/", argv=("/bin/true",), env={}, limits=SandboxLimits(memory_mib_max=1, cpu_millicores_max=1), netns=""
)


def changed(**changes: object) -> SandboxSpec:
    import msgspec

    return msgspec.structs.replace(SPEC, **changes)


@given(FRAMES, st.lists(st.integers(1, 400), max_size=20))
def test_frames_are_found_however_they_are_cut(wanted: list[tuple[Type, int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*each) for each in wanted)
    parser, found, at = Parser(), [], 0
    for cut in (*cuts, len(data) + 1):
        found += parser.feed(data[at : at + cut])
        at += cut
    assert [(each.type, each.channel, each.payload) for each in found] == wanted


@given(FRAMES, st.binary(max_size=200))
def test_garbage_before_a_frame_costs_nothing_once_it_is_completed(wanted: list[tuple[Type, int, bytes]], garbage: bytes) -> None:
    parser = Parser()
    parser.feed(garbage)
    found = parser.feed(padding() + b"".join(frame(*each) for each in wanted))
    assert [(each.type, each.channel, each.payload) for each in found] == wanted


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_frame_with_a_changed_byte_is_none(payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(frame(Type.DATA, 7, payload))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    assert Parser().feed(bytes(whole) + padding()) == []


def test_half_a_frame_does_not_swallow_the_next_session() -> None:
    parser = Parser()
    parser.feed(frame(Type.DATA, 1, b"x" * PAYLOAD_BYTES_MAX)[: HEADER_BYTES + 10])
    assert [each.type for each in parser.feed(padding() + frame(Type.HELLO, 0, b"n" * 16))] == [Type.HELLO]


def test_a_parser_keeps_no_more_than_one_frame_of_garbage() -> None:
    parser = Parser()
    for _ in range(50):
        parser.feed(b"SKG\x01" + b"\xff" * 10_000)
    assert len(parser._buffer) <= PAYLOAD_BYTES_MAX + HEADER_BYTES


def test_too_large_a_payload_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="at most"):
        frame(Type.DATA, 1, bytes(PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="arg of"):
        field(Tag.ARG, bytes(FIELD_BYTES_MAX + 1))


@given(st.lists(st.integers(0, FIELD_BYTES_MAX), max_size=12))
def test_fields_are_packed_in_order_and_into_frames(sizes: list[int]) -> None:
    wanted = [field(Tag.ENV, bytes([number % 256]) * size) for number, size in enumerate(sizes)]
    payloads = list(packed(wanted))
    assert b"".join(payloads) == b"".join(wanted)
    assert all(0 < len(payload) <= PAYLOAD_BYTES_MAX for payload in payloads)


def test_what_a_program_cannot_be_given_is_its_authors_fault(tmp_path) -> None:
    with pytest.raises(StartError, match="60001 bytes"):
        fields.program(changed(env={"A": "x" * 59_999}))
    with pytest.raises(StartError, match="not an absolute path"):
        fields.program(changed(files=(SandboxFile(path="etc/x", content=b""),)))
    with pytest.raises(Unsupported, match="/data"):
        fields.program(changed(mounts=(Mount(source=str(tmp_path), target="/data"),)))
    with pytest.raises(StartError, match="hardware address"):
        network = GuestNetwork(device="tap0", mac="02:00", address="10.0.0.2/30", gateway="10.0.0.1")
        fields.program(changed(network=network))


def test_a_large_file_comes_in_parts() -> None:
    content = bytes(range(256)) * 1000
    parts = fields.program(changed(files=(SandboxFile(path="/run/x", content=content, mode=0o640),)))
    heads = [struct.unpack_from("<HI", part) for part in parts]
    begin = next(number for number, (tag, _) in enumerate(heads) if tag == Tag.FILE)
    assert parts[begin][6:] == struct.pack("<I", 0o640) + b"/run/x"
    assert b"".join(part[6:] for part in parts[begin + 1 :]) == content


@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("QUIT", 3), ("9", 9), ("SIGNONE", 15), ("0", 15), ("1000", 15)])
def test_stop_signals_by_name_and_number(name: str, number: int) -> None:
    assert fields.signal_number(name) == number
