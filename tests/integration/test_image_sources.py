"""From a file, a directory or a registry to a pinned image and its bytes."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.imagesources.credentials import find_credentials
from skerry.adapters.imagesources.opening import open_source
from skerry.ports.imagesources import BadSource, NoSuchSource, Source, SourceRefused, SourceUnavailable
from skerry.testing.images import Built, File, build, tar
from skerry.testing.registry import PASSWORD, USER, TestRegistry, docker_config


def sample(text: bytes = b"hello", *, architecture: str = "amd64", name: str = "sample") -> Built:
    layers = [{"etc/base": File(content=bytes(range(256)) * 4096)}, {"etc/motd": File(content=text)}]
    return build(layers, name=name, command=("/bin/true",), architecture=architecture)


async def blobs(source: Source) -> dict[str, bytes]:
    got = {digest: b"".join([chunk async for chunk in source.blob(digest)]) for digest in sorted(source.image.blobs())}
    await source.aclose()
    return got


@pytest.fixture
async def registry() -> AsyncIterator[TestRegistry]:
    served = await TestRegistry().start()
    yield served
    await served.stop()


@pytest.mark.parametrize("kind", ["archive", "directory"])
async def test_an_oci_layout_gives_its_image_and_all_blobs(tmp_path: Path, kind: str) -> None:
    built = sample()
    path = built.save(tmp_path / "a.tar") if kind == "archive" else built.save_directory(tmp_path / "layout")
    source = await open_source(str(path), architecture="amd64")
    assert (source.image.manifest, source.image.layers) == (built.image.manifest, built.image.layers)
    assert await blobs(source) == built.blobs


async def test_docker_save_of_old_is_pinned_like_any_other(tmp_path: Path) -> None:
    layer = tar({"etc/motd": File(content=b"old")})
    digest = build([layer], compression="none").image.layers[0].digest
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"] * 2}}
    saved = [{"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    path = tmp_path / "saved.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (
            ("c.json", json.dumps(config).encode()),
            ("a/layer.tar", layer),
            ("manifest.json", json.dumps(saved).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        archive.addfile(link)
    source = await open_source(f"{path}#web:1", architecture="amd64")
    assert [found.diff_id for found in source.image.layers] == [digest, digest]
    got = await blobs(source)
    assert got[source.image.layers[1].digest] == layer
    assert set(got) == source.image.blobs()
    again = await open_source(str(path), architecture="amd64")
    assert again.image.manifest == source.image.manifest


async def test_a_damaged_blob_is_refused_at_its_end(tmp_path: Path) -> None:
    built = sample()
    victim = built.image.layers[0].digest
    path = built.save_directory(tmp_path / "layout")
    file = path / "blobs/sha256" / victim
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    source = await open_source(str(path), architecture="amd64")
    with pytest.raises(BadSource, match=victim[:12]):
        await blobs(source)


async def test_several_images_in_one_archive_have_to_be_chosen_from(tmp_path: Path) -> None:
    one, two = sample(b"one", name="one"), sample(b"two", name="two")
    path = tmp_path / "both"
    one.save_directory(path)
    first = json.loads((path / "index.json").read_text())["manifests"]
    two.save_directory(path)
    index = json.loads((path / "index.json").read_text())
    index["manifests"] += first
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(BadSource, match="two, one"):
        await open_source(str(path), architecture="amd64")
    assert (await open_source(f"{path}#one", architecture="amd64")).image.manifest == one.image.manifest


async def test_a_file_that_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"not a tar archive")
    with pytest.raises(BadSource, match=r"a\.tar"):
        await open_source(str(tmp_path / "a.tar"), architecture="amd64")
    with pytest.raises(BadSource, match="no such file"):
        await open_source(str(tmp_path / "b.tar"), architecture="amd64")
    with pytest.raises(BadSource, match="in which registry"):
        await open_source("web:1", architecture="amd64")


@pytest.mark.parametrize("login", ["none", "token", "basic"])
@pytest.mark.parametrize("redirected", [False, True])
async def test_a_registry_gives_its_image_and_all_blobs(tmp_path: Path, login: str, redirected: bool) -> None:
    registry = await TestRegistry(login, redirect_blobs=redirected).start()  # type: ignore[arg-type]
    built = sample()
    registry.add("team/web", "1", built)
    config = docker_config(tmp_path / "config.json", registry.address)
    source = await open_source(f"{registry.address}/team/web:1", architecture="amd64", docker_config=config)
    assert await blobs(source) == built.blobs
    elsewhere = [headers for target, headers in registry.seen if target.startswith("/store/")]
    assert bool(elsewhere) == redirected
    assert not any("authorization" in headers for headers in elsewhere)
    await registry.stop()


async def test_the_platform_is_chosen_from_an_index(registry: TestRegistry) -> None:
    arm, amd = sample(architecture="arm64"), sample(architecture="amd64")
    registry.add("web", "latest", arm, amd)
    for built in (arm, amd):
        source = await open_source(f"{registry.address}/web", architecture=built.image.architecture)
        assert source.image.manifest == built.image.manifest
        await source.aclose()
    with pytest.raises(BadSource, match="linux/amd64, linux/arm64"):
        await open_source(f"{registry.address}/web", architecture="riscv64")


async def test_one_image_for_another_architecture_is_refused(registry: TestRegistry) -> None:
    registry.add("web", "latest", sample(architecture="arm64"))
    with pytest.raises(BadSource, match="linux/arm64"):
        await open_source(f"{registry.address}/web", architecture="amd64")


async def test_a_digest_pins_whatever_the_tag_is(registry: TestRegistry) -> None:
    digest = registry.add("web", "latest", sample(b"one"))
    registry.add("web", "latest", sample(b"two"))
    source = await open_source(f"{registry.address}/web@{digest}", architecture="amd64")
    assert source.image.manifest == sample(b"one").image.manifest
    await source.aclose()


async def test_a_registry_that_answers_with_something_else_is_refused(registry: TestRegistry) -> None:
    registry.add("web", "latest", sample())
    registry.damage = True
    with pytest.raises(BadSource):
        await open_source(f"{registry.address}/web", architecture="amd64")


async def test_a_blob_that_breaks_off_goes_on_where_it_ended(registry: TestRegistry) -> None:
    built = sample()
    registry.add("web", "latest", built)
    source = await open_source(f"{registry.address}/web", architecture="amd64")
    registry.blob_cuts = 3
    assert await blobs(source) == built.blobs
    assert any("range" in headers for _, headers in registry.seen)


async def test_who_is_not_logged_in_is_told_how_to(registry: TestRegistry, tmp_path: Path) -> None:
    registry.login = "token"
    registry.add("web", "latest", sample())
    with pytest.raises(SourceRefused, match=f"docker login {registry.address}"):
        await open_source(f"{registry.address}/web", architecture="amd64", docker_config=tmp_path / "none")


async def test_what_is_not_there_is_named(registry: TestRegistry) -> None:
    with pytest.raises(NoSuchSource, match="web:9"):
        await open_source(f"{registry.address}/web:9", architecture="amd64")
    await registry.stop()
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1"):
        await open_source(f"{registry.address}/web:9", architecture="amd64")
    await registry.start()


async def test_docker_login_is_understood(tmp_path: Path) -> None:
    config = docker_config(tmp_path / "config.json", "registry.test")
    found = await find_credentials("registry.test", config=config)
    assert found is not None
    assert (found.user, found.password) == (USER, PASSWORD)
    assert await find_credentials("other.test", config=config) is None
