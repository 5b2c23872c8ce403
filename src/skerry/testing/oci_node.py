"""A node with a real container engine and real images, for tests: its engines one after the other, and what they leave."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters import kernel
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.cgroup.v1 import ALL
from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.process import detached
from skerry.adapters.sandbox.oci.engine import OciEngine
from skerry.adapters.sandbox.oci.places import Places
from skerry.adapters.sandbox.oci.runtimes import Runtime
from skerry.core.types.ids import Digest
from skerry.ports.sandbox import Sandbox, SandboxEngine, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS
from skerry.testing.images import Built, Entry, File, Folder, Link, build

BUSYBOX_COMMANDS = (
    "sh cat sleep ls id mount mkdir rmdir dd stty ps echo printenv ln rm find head tr true false wc tar kill touch grep httpd"
    " wget nc chown chmod mknod hostname env sync readlink df unshare su"
)
_run = Path("/run/skerry-test")


def busybox() -> Path | None:
    """A static one: the machine's (package busybox-static), or None."""
    found = shutil.which("busybox") or "/bin/busybox"
    if not Path(found).is_file():
        return None
    linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
    return Path(found) if linked.returncode != 0 or "not a dynamic" in linked.stdout + linked.stderr else None


def busybox_tree(program: bytes) -> dict[str, Entry]:
    names = BUSYBOX_COMMANDS.split()
    tree: dict[str, Entry] = {"bin/busybox": File(content=program, mode=0o755)}
    tree |= {f"bin/{name}": Link(target="busybox") for name in names}
    tree |= {"tmp": Folder(mode=0o1777), "var": Folder(mode=0o1777), "etc/passwd": File(content=b"root:x:0:0:root:/:/bin/sh\n")}
    return tree


def busybox_image(program: bytes, **options: object) -> Built:
    return build([busybox_tree(program)], name="busybox", command=("/bin/sh",), **options)  # pyright: ignore[reportArgumentType]


class OciNode:
    """`skerry.testing.contracts.sandbox.SandboxHarness` on one runtime."""

    def __init__(self, root: Path, runtime: Runtime) -> None:
        self.root = root
        self.runtime = runtime
        self.data = root / "node"
        self.data.mkdir()
        self._name = secrets.token_hex(4)
        self.run = _run / self._name
        self.places = Places(self.data, runtime.name, self.run / "sandboxes")
        self.built: Built | None = None
        self.images: OverlayImages | None = None
        self._engines: list[OciEngine] = []
        self._networks: list[str] = []

    async def open(self, known: frozenset[str] = frozenset()) -> OciEngine:
        engine = OciEngine(self.runtime, self.data, run_dir=self.places.run)
        await engine.attach(known)
        self._engines.append(engine)
        return engine

    async def abandon(self, engine: SandboxEngine) -> None:
        pass

    async def spec(self, script: str) -> SandboxSpec:
        images = await self.open_images()
        assert self.built is not None
        name = secrets.token_hex(8)
        rootfs = await images.mount(name, self.built.image, writable_mib=LIMITS.memory_mib_max // 2)
        return SandboxSpec(
            id=name,
            rootfs=str(rootfs),
            argv=("/bin/sh", "-c", script),
            env={"PATH": "/bin"},
            limits=LIMITS,
            netns=self._network(name),
            hostname="inside",
            log=str(self.root / f"{name}.log"),
        )

    async def open_images(self) -> OverlayImages:
        if self.images is None:
            program = busybox()
            assert program is not None
            self.built = self.built or busybox_image(program.read_bytes())
            self.images = OverlayImages(self.data / "images", self.stream, run_dir=self.run / "images")
            await self.images.attach(frozenset())
            await self.images.prepare(self.built.image)
        return self.images

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        assert self.built is not None
        yield self.built.blobs[digest]

    async def leftovers(self) -> list[str]:
        found = [f"process {pid}" for pid in detached.find_tagged(self.places.tag)]
        tree, _ = find_tree(f"skerry-{self.places.tag}", controllers=ALL)
        found += [f"group {name}" for name in (tree.names() if tree else ())]
        found += [f"trace {name}" for name in self.places.names()]
        found += [f"mount {path}" for path in kernel.mounts_below(self.places.run) if path != self.places.memory]
        found += [f"mount {path}" for path in kernel.mounts_below(self.root)]
        return found + [f"state {path}" for path in self.places.state.glob("*") if path.name != "null-netns"]

    async def kill_program(self, sandbox: Sandbox) -> None:
        process = detached.open_pid(sandbox.pid)
        assert process is not None
        process.signal(signal.SIGKILL)
        await process.wait()
        process.close()

    async def clean_up(self) -> None:
        for engine in self._engines[-1:]:
            await engine.attach(frozenset())
            await engine.aclose()
        if self.images is not None:
            await self.images.attach(frozenset())
        tree, _ = find_tree(f"skerry-{self.places.tag}", controllers=ALL)
        for name in tree.names() if tree else ():
            assert tree is not None
            await end_group(tree, name)
        for path in (*kernel.mounts_below(self.run), *kernel.mounts_below(self.root)):
            kernel.unmount(path)
        for name in self._networks:
            await asyncio.to_thread(subprocess.run, ["ip", "netns", "del", name], check=False)
        shutil.rmtree(self.run, ignore_errors=True)

    def _network(self, name: str) -> str:
        subprocess.run(["ip", "netns", "add", f"sk-{name}"], check=True)
        subprocess.run(["ip", "-n", f"sk-{name}", "link", "set", "lo", "up"], check=True)
        self._networks.append(f"sk-{name}")
        return f"/run/netns/sk-{name}"


def is_root() -> bool:
    return os.geteuid() == 0
