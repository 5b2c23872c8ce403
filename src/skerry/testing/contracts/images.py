"""The contract of `skerry.ports.images.Images`, as tests. Subclass it and give it a `harness` fixture."""

import asyncio
import os
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from skerry.core.types.ids import Digest
from skerry.ports.images import BadImage, Images, ImagesUnavailable
from skerry.testing.images import Built, File, build, pack, tar

MIB = 1 << 20
FIRST, SECOND = "a" * 16, "b" * 16


class Shop:
    """Where blobs come from. `broken` answers with an error, `changed` with another content."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.fetched: list[Digest] = []
        self.broken = False

    def offer(self, *images: Built) -> Built:
        for built in images:
            self.blobs |= built.blobs
        return images[-1]

    async def fetch(self, digest: Digest) -> bytes:
        self.fetched.append(digest)
        if self.broken:
            raise ConnectionError("the link is down")
        return self.blobs[digest]


class ImagesHarness(Protocol):
    """How the suite reaches one adapter. What it opens stand for agents of one node, one after the other."""

    shop: Shop

    async def open(self, known: frozenset[str] = frozenset()) -> Images: ...

    async def leftovers(self) -> list[str]:
        """Mounts and files of instances."""
        ...


def sample(text: bytes = b"hello", **options: object) -> Built:
    base = {"etc/base": File(content=b"the same in all")}
    return build([base, {"etc/motd": File(content=text)}], **options)  # pyright: ignore[reportArgumentType]


def heavy(name: str) -> Built:
    """Of more than 1 MiB, packed too."""
    return build([{"data": File(content=os.urandom(MIB + 1000))}], name=name)


class ImagesContract:
    @pytest.fixture
    async def images(self, harness: ImagesHarness) -> Images:
        return await harness.open()

    async def test_tells_how_the_image_runs(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(
            sample(
                entrypoint=("/bin/app",), command=("--serve",), env=("A=1", "B=2=3"), working_dir="/srv", user="app:app",
                ports=(8080, 53), stop_signal="QUIT",
            )
        )  # fmt: skip
        config = await images.prepare(built.image)
        assert (config.entrypoint, config.command, config.env) == (("/bin/app",), ("--serve",), ("A=1", "B=2=3"))
        assert (config.working_dir, config.user, config.stop_signal) == ("/srv", "app:app", "SIGQUIT")
        assert config.exposed_ports == (53, 8080)

    async def test_fetches_each_layer_once_whoever_shares_it(self, images: Images, harness: ImagesHarness) -> None:
        one, two = sample(b"one"), sample(b"two")
        harness.shop.offer(one, two)
        await asyncio.gather(images.prepare(one.image), images.prepare(one.image), images.prepare(two.image))
        await images.prepare(two.image)
        assert sorted(harness.shop.fetched) == sorted(one.image.blobs() | two.image.blobs())

    async def test_fetches_nothing_again_for_the_next_agent(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(sample(entrypoint=("/bin/app",)))
        await images.prepare(built.image)
        harness.shop.broken = True
        images = await harness.open()
        assert (await images.prepare(built.image)).entrypoint == ("/bin/app",)

    async def test_refuses_what_is_for_another_machine(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(sample(architecture="s390x"))
        with pytest.raises(BadImage, match="s390x"):
            await images.prepare(built.image)

    @pytest.mark.parametrize("which", ["manifest", "config", "layer"])
    async def test_refuses_another_content(self, images: Images, harness: ImagesHarness, which: str) -> None:
        built = harness.shop.offer(sample())
        image = built.image
        victim = {"manifest": image.manifest, "config": image.config, "layer": image.layers[0].digest}[which]
        harness.shop.blobs[victim] += b"\0"
        with pytest.raises(BadImage):
            await images.prepare(image)
        harness.shop.offer(built)
        await images.prepare(image)

    async def test_refuses_layers_that_the_manifest_does_not_name(self, images: Images, harness: ImagesHarness) -> None:
        one, two = sample(b"one"), sample(b"two")
        harness.shop.offer(one, two)
        with pytest.raises(BadImage):
            await images.prepare(replace(one.image, layers=two.image.layers))

    async def test_a_link_that_is_down_is_not_the_images_fault(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(sample())
        harness.shop.broken = True
        with pytest.raises(ImagesUnavailable, match="the link is down"):
            await images.prepare(built.image)
        harness.shop.broken = False
        await images.prepare(built.image)

    async def test_mounts_are_found_again_and_leave_nothing(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(sample())
        first = await images.mount(FIRST, built.image, writable_mib=16)
        assert await images.mount(FIRST, built.image, writable_mib=16) == first
        assert await images.mount(SECOND, built.image, writable_mib=16) != first
        assert [use.instances for use in images.present()] == [2]
        images = await harness.open(frozenset((FIRST,)))
        assert [use.instances for use in images.present()] == [1]
        assert await images.mount(FIRST, built.image, writable_mib=16) == first
        await images.unmount(FIRST)
        await images.unmount(FIRST)
        await images.unmount("c" * 16)
        assert [use.instances for use in images.present()] == [0]
        assert await harness.leftovers() == []

    async def test_collects_the_longest_unused_and_nothing_in_use(self, images: Images, harness: ImagesHarness) -> None:
        built = [heavy(name) for name in ("used", "kept", "old", "new")]
        harness.shop.offer(*built)
        for one in built:
            await images.prepare(one.image)
        used, kept, old, new = (one.image for one in built)
        await images.mount(FIRST, used, writable_mib=16)
        await images.collect(frozenset((kept.manifest,)), budget_mib=100)
        assert {use.name for use in images.present()} == {"used", "kept", "old", "new"}
        await images.collect(frozenset((kept.manifest,)), budget_mib=4)
        assert {use.name for use in images.present()} == {"used", "kept", "new"}
        await images.collect(frozenset((kept.manifest,)), budget_mib=0)
        assert {use.name for use in images.present()} == {"used", "kept"}
        harness.shop.fetched.clear()
        await images.prepare(old)
        assert old.layers[0].digest in harness.shop.fetched
        await images.prepare(used)
        assert used.layers[0].digest not in harness.shop.fetched
        assert new.manifest not in {use.manifest for use in images.present()}

    async def test_gives_a_disk_once(self, images: Images, harness: ImagesHarness) -> None:
        built = harness.shop.offer(sample())
        first, second = await asyncio.gather(images.disk(built.image), images.disk(built.image))
        assert first == second
        times = _changed(first)
        assert await images.disk(built.image) == first
        assert _changed(first) == times  # another start does not make it another disk


def _changed(disk: Path) -> tuple[int, int] | None:
    """The simulated one makes no files."""
    return (disk.stat().st_ino, disk.stat().st_mtime_ns) if disk.exists() else None


def wrong_diff_id() -> Built:
    """A blob that is whole, and unpacks to something else than the configuration says."""
    good, other = tar({"a": File(content=b"a")}), tar({"b": File(content=b"b")})
    right = build([other], compression="none")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [f"sha256:{right.image.layers[0].diff_id}"]}}
    return pack([(good, other)], config, compression="none")
