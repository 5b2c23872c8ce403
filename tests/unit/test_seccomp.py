"""The filter around workerd, interpreted: which calls pass and which do not."""

import errno
import platform
import struct

import pytest

from skerry.adapters.runtime.workerd import seccomp

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers in here are those of x86_64")

ARCH = 0xC000003E
ALLOWED, KILLED = 0x7FFF0000, 0x80000000


def run(number: int, arg0: int = 0, *, network: bool = False, arch: int = ARCH) -> int:
    """What the kernel would do: the five opcodes that the filter uses."""
    code = seccomp.program(network=network)
    assert code is not None
    rules = list(struct.iter_unpack("=HBBI", code))
    data = struct.pack("=IIQQ", number, arch, 0, arg0)
    at = word = 0
    while True:
        opcode, if_true, if_false, value = rules[at]
        at += 1
        if opcode == 0x06:
            return value
        if opcode == 0x20:
            word = struct.unpack_from("=I", data, value)[0]
            continue
        holds = {0x15: word == value, 0x45: bool(word & value), 0x35: word >= value}[opcode]
        at += if_true if holds else if_false


def refused(code: int) -> int:
    return 0x00050000 | code


def test_the_filter_is_small_enough() -> None:
    code = seccomp.program(network=True)
    assert code is not None
    assert len(code) // 8 <= 4096


@pytest.mark.parametrize("number", [0, 1, 3, 9, 10, 11, 59, 60, 202, 231, 232, 281, 288, 318, 332], ids=str)
def test_ordinary_calls_pass(number: int) -> None:
    assert run(number) == ALLOWED


@pytest.mark.parametrize("number", [165, 272, 308, 101, 310, 321, 298, 323, 250, 304, 425, 175, 246, 438, 442], ids=str)
def test_dangerous_calls_do_not(number: int) -> None:
    assert run(number) == refused(errno.EPERM)


def test_threads_yes_namespaces_no() -> None:
    assert run(56, 0x3D0F00) == ALLOWED  # what pthread_create asks for
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert run(56, 0x11 | flag) == refused(errno.EPERM)
    assert run(435) == refused(errno.ENOSYS)


def test_sockets() -> None:
    assert run(41, 1) == ALLOWED
    for family in (2, 10, 16, 17, 38, 40):
        assert run(41, family) == refused(errno.EAFNOSUPPORT)
    assert run(41, 2, network=True) == ALLOWED
    assert run(41, 10, network=True) == ALLOWED
    assert run(41, 17, network=True) == refused(errno.EAFNOSUPPORT)


def test_other_tables_are_death() -> None:
    assert run(0, arch=0x40000003) == KILLED
    assert run(0x40000000 | 59) == KILLED
