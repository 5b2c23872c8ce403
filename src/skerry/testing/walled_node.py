"""A node with Workers in real gVisor, for tests: both runtimes as one, its agents one after the other."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec.structs import replace

from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.recordfile import JsonFolder
from skerry.adapters.runtime.workerd.gvisor import GvisorWorkers
from skerry.adapters.runtime.workerd.settings import Settings
from skerry.core.types.ids import Digest, InstanceId
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Runtime
from skerry.services.node.composite import CompositeRuntime
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.testing.programs_node import ProgramsNode
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode


class WalledNode:
    """A `WorkerdNode` and a `ProgramsNode` side by side."""

    def __init__(self, settings: Settings = TEST_SETTINGS) -> None:
        self.workers = WorkerdNode(Path(tempfile.mkdtemp(prefix="skw")), settings)
        self.programs = ProgramsNode("runsc", b"")

    async def open(self) -> CompositeRuntime:
        workers = self.workers.make()
        walled = GvisorWorkers(workers, self.workers.shop.fetch)

        async def stream(digest: Digest) -> AsyncIterator[bytes]:
            found = await walled.image.stream(digest)
            assert found is not None, "there is no other image here"
            async for chunk in found:
                yield chunk

        ground = self.programs.stand(
            images=OverlayImages(self.programs.data, stream, run_dir=self.programs.root / "images"), walled=walled
        )
        records = JsonFolder(self.programs.data / "records", Kept)
        programs = ProgramRuntime(ground, records, JsonFolder(self.programs.data / "snapshots-made", SnapshotRecord))
        runtime = CompositeRuntime(workers, programs, walled=walled)
        await runtime.attach()
        self.workers.opened(workers)
        self.programs.opened(programs)
        return runtime

    async def kill_agent(self, runtime: Runtime) -> None:
        await runtime.aclose(stop_instances=False)

    def good(self, name: str) -> NodeInstance:
        return walled(self.workers.good(name))

    def broken(self, name: str) -> NodeInstance:
        return walled(self.workers.broken(name))

    def cut_off(self, is_so: bool) -> None:
        self.workers.cut_off(is_so)

    def fetches(self) -> int:
        return self.workers.fetches()

    async def request(self, address: str) -> int:
        return await self.workers.request(address)

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        await self.programs.kill_process(runtime, instance_id)

    async def leftovers(self) -> list[str]:
        return [*await self.programs.leftovers(), *await self.workers.leftovers()]

    async def clean_up(self) -> None:
        await self.programs.clean_up()
        await self.workers.clean_up()


def walled(instance: NodeInstance) -> NodeInstance:
    """The same Worker in isolation class gvisor."""
    return replace(instance, version=replace(instance.version, isolation="gvisor"))
