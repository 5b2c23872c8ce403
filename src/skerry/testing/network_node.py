"""A node whose programs' network is real, on a machine of its own (see `skerry.testing.netlab`)."""

import asyncio
from pathlib import Path

from skerry.adapters.network.linux import devices, leftovers, namespaces
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.network.linux.settings import Places, Settings
from skerry.adapters.process.detached import find_tagged, kill_tagged
from skerry.ports.network import InstanceNetwork, Network
from skerry.testing.contracts.network import PORT
from skerry.testing.netlab import PORT as WORLD_PORT
from skerry.testing.netlab import PRIVATE, PUBLIC, PUBLIC_2, UPLINK_HOST, NetworkLab


class NetworkNode:
    """A harness of the contract. The thread that makes it is on the machine until `clean_up`."""

    public, other_public, private, node = PUBLIC, PUBLIC_2, PRIVATE, UPLINK_HOST

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.1.11",
        settings: Settings | None = None,
        lab: NetworkLab | None = None,
        data: Path | None = None,
        run: Path | None = None,
    ) -> None:
        """`lab`: a machine that is there already, whose owner takes it down."""
        self.address = address
        self.data, self.run = data or directory / "data", run or directory / "run"
        for path in (self.data, self.run):
            path.mkdir(parents=True)
        self.places = Places(self.data, self.run)
        self.settings = settings or Settings()
        self.lab = lab or NetworkLab(directory / "lab")
        self._own_lab = lab is None
        if self._own_lab:
            self.lab.__enter__()
        self._networks: list[LinuxNetwork] = []
        self._listening = not self._own_lab

    async def open(self, *known: str) -> LinuxNetwork:
        if not self._listening:
            self._listening = True
            await self.lab.world_listens()
            await self.lab.listen(self.lab.machine, WORLD_PORT, "the node itself")
        network = LinuxNetwork(address=self.address, data_dir=self.data, run_dir=self.run, settings=self.settings)
        self._networks.append(network)
        await network.attach(frozenset(known))
        return network

    async def kill_agent(self, network: Network) -> None:
        """The kernel closes its sockets; everything else stays as it is."""
        assert isinstance(network, LinuxNetwork)
        await network.aclose(remove_all=False)

    async def serve(self, made: InstanceNetwork, answer: str) -> None:
        await self.lab.listen(Path(made.netns), PORT, answer)
        if made.address != made.guest.address.partition("/")[0]:
            raise AssertionError("a guest serves itself")

    async def request(self, address: str) -> tuple[int, str]:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        finally:
            writer.close()
        if not head:
            raise ConnectionResetError(address)
        return int(head.split()[1]), body.split(" 1")[0] if head.split()[1] == "200" else body

    async def reaches(self, made: InstanceNetwork, host: str) -> bool:
        return await self.lab.reaches(Path(made.netns), f"{host}:{WORLD_PORT}")

    async def leftovers(self) -> list[str]:
        found = list(leftovers.find(self.data, self.run))
        found += namespaces.in_thread(_blackholes)
        found += [f"process {pid}" for pid in find_tagged(self.places.tag)]
        found += [str(path) for path in self.places.run.rglob("*")] if self.places.run.exists() else []
        kept = (self.places.lease, self.places.log)
        return found + [str(path) for path in self.data.rglob("*") if path.is_file() and path not in kept]

    async def clean_up(self) -> None:
        for network in self._networks:
            await network.aclose(remove_all=False)
        await kill_tagged(self.places.tag)
        leftovers.remove(self.data, self.run)
        if self._own_lab:
            self.lab.__exit__(None, None, None)


def _blackholes() -> list[str]:
    with devices.netlink() as route:
        return [str(entry.get("RTA_DST")) for entry in route.get_routes(family=2) if entry["type"] == devices.BLACKHOLE]
