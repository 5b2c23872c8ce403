"""Machines that wait for the next start, where one of them does not end at once."""

from typing import Any, cast

from skerry.adapters.sandbox.qemu.machine import Running
from skerry.adapters.sandbox.qemu.warm import Kind, Warm
from skerry.ports.sandbox import SandboxError


class Process:
    def __init__(self, name: str) -> None:
        self.name = name

    def close(self) -> None:
        pass


class Machine:
    def __init__(self, name: str) -> None:
        self.process = Process(name)

    async def let_go(self) -> None:
        pass


async def test_one_that_does_not_end_keeps_none_of_the_others_and_is_tried_again() -> None:
    there, stuck = set[str](), {"a"}

    async def make(kind: Kind) -> Running:
        there.add(kind.disk)
        return cast(Running, Machine(kind.disk))

    async def erase(name: str) -> None:
        if name in stuck:
            raise SandboxError(f"{name} does not end")
        there.discard(name)

    warm = Warm(make, erase, machines_max=3)
    for name in ("a", "b"):
        warm.want(Kind(template=cast(Any, None), disk=name, log_bytes_max=1))
    await warm.settled()
    assert there == {"a", "b"}
    assert await warm.allow(False) == 2
    assert (there, warm.names) == ({"a"}, ())
    stuck.clear()
    await warm.allow(True)
    warm.want(Kind(template=cast(Any, None), disk="c", log_bytes_max=1))
    await warm.settled()
    assert there == {"c"}
