"""Starts and removes containers until it is killed: `start_containers.py ROOT RUNTIME RUN IMAGE`."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.oci.engine import OciEngine
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.record import decode
from skerry.ports.sandbox import ExecSpec, SandboxFile, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS


async def nothing(digest: Digest) -> AsyncIterator[bytes]:
    raise AssertionError("all of the image is there")
    yield b""


async def main(root: Path, name: str, run: Path, image: Image) -> None:
    images = OverlayImages(root / "node/images", nothing, run_dir=run / "images")
    engine = OciEngine(runtimes.find(name), root / "node", run_dir=run / "sandboxes")  # type: ignore[arg-type]
    await images.attach(frozenset())
    await engine.attach(frozenset())
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(once(images, engine, root, image) for _ in range(2)))


async def once(images: OverlayImages, engine: OciEngine, root: Path, image: Image) -> None:
    sandbox = secrets.token_hex(8)
    rootfs = await images.mount(sandbox, image, writable_mib=16)
    started = await engine.start(
        SandboxSpec(
            id=sandbox, rootfs=str(rootfs), argv=("/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait"), env={"PATH": "/bin"},
            limits=LIMITS, netns="", files=(SandboxFile(path="/run/key", content=b"secret"),), log=str(root / "log"),
        )
    )  # fmt: skip
    session = await started.exec(ExecSpec(argv=("/bin/sleep", "1000")))
    await asyncio.sleep(0.02)
    await session.aclose()
    await engine.remove(sandbox)
    await images.unmount(sandbox)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), decode(sys.argv[4].encode(), Image)))
