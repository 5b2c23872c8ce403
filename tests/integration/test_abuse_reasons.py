"""Each abuse is told by the limit that it comes to, behind every wall that can tell it; a calm neighbour is told nothing."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from skerry.adapters.network.linux.probe import probe
from skerry.core.machines.instance import Backoff
from skerry.core.machines.strains import StrainSettings
from skerry.core.types.app import Limits
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance
from skerry.core.types.strain import Limit
from skerry.ports.runtime import Runtime
from skerry.services.node.programs.settings import ProgramSettings
from skerry.testing.contracts.runtime import find
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import Kind, ProgramsNode, missing
from skerry.testing.waiting import eventually

DEADLINE_S = 200  # emulated machines on a busy one
FOREVER = "while :; do sleep 1000; done"
ABUSES: dict[Limit, str] = {
    "processes": f"(i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done); {FOREVER}",
    "memory": "while :; do dd if=/dev/zero of=/dev/null bs=900M; sleep 1; done",
    "disk": f"dd if=/dev/zero of=/var/big bs=65536; {FOREVER}",
    "descriptors": "ulimit -n 64; i=0; set --; while [ $i -lt 61 ]; do set -- $@ /etc/passwd; i=$((i+1)); done; exec tail -f $@",
    "log": "while :; do head -c 1000000 /dev/zero | tr '\\0' x; done",
    "cpu": "while :; do :; done",
}
UNTOLD: dict[Kind, frozenset[Limit]] = {
    # Its processes are those of its own kernel: the host sees neither what they have open nor how many they are.
    "runsc": frozenset(("descriptors", "processes")),
}
SETTINGS = ProgramSettings(
    backoff=Backoff(first_ms=500), look_every_ms=250, log_bytes_max=64 << 10, strains=StrainSettings(cpu_window_ms=2_000)
)

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.skipif(busybox() is None, reason="no static busybox (busybox-static)"),
    pytest.mark.skipif(not probe().usable, reason=f"networks: {probe().rules}"),
    pytest.mark.timeout(400),
]


@pytest.fixture(params=("crun", "runsc", "microvm"))
async def node(request: pytest.FixtureRequest) -> AsyncIterator[ProgramsNode]:
    if problem := missing(request.param):
        pytest.skip(f"{request.param}: {problem}")
    program = busybox()
    assert program is not None
    made = ProgramsNode(request.param, program.read_bytes(), SETTINGS)
    try:
        yield made
    finally:
        await made.clean_up()


def job(node: ProgramsNode, name: str, script: str) -> NodeInstance:
    """Without a port: it runs as soon as its process does."""
    made = node.instance(name, command=("sh", "-c", script), writable_mib=8)
    version = made.version
    assert version.program is not None
    program = replace(version.program, port=None, pids_max=32)
    limits = Limits(
        # Little, and a large part of what is reserved: it gets all of it also on a machine with other work.
        cpu_millicores_max=100 if name == "cpu" else 1000,
        memory_mib_max=128,
        reserve=Resources(cpu_millicores=200, memory_mib=128, disk_mib=8),
    )
    return replace(made, version=replace(version, program=program, limits=limits))


def told(runtime: Runtime, one: NodeInstance) -> set[str]:
    seen = find(runtime, one.id)
    return {strain.limit for strain in seen.strains} if seen is not None else set()


async def test_each_abuse_is_told_by_the_limit_that_it_comes_to(node: ProgramsNode) -> None:
    runtime = await node.open()
    wanted = {limit: job(node, limit, script) for limit, script in ABUSES.items() if limit not in UNTOLD.get(node.kind, ())}
    calm = job(node, "calm", FOREVER)
    await runtime.start(calm)
    for limit, one in wanted.items():
        await runtime.start(one)
        try:
            await eventually(lambda limit=limit, one=one: limit in told(runtime, one), timeout_s=DEADLINE_S)
        except TimeoutError:
            pytest.fail(f"{limit} is not told of {find(runtime, one.id)}, {runtime.stats(one.id)}")
        await runtime.stop(one.id, grace_ms=0)
    assert told(runtime, calm) == set()
