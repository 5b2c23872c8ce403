"""The client of Firecracker's API against the strict fake: each call is one that Firecracker takes, in a machine's order."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.sandbox.firecracker.api import Api, ApiError, ApiLost, Bucket, RateLimiter
from skerry.testing.firecracker.machine import Machine
from skerry.testing.firecracker.server import Server, serving


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "kernel").write_bytes(b"\x7fELF")
    (tmp_path / "disk").write_bytes(bytes(4096))
    async with serving(Machine(tmp_path), tmp_path / "api.sock") as server:
        yield server


@pytest.fixture
async def api(server: Server, tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(tmp_path, "api.sock")
    yield api
    api.close()


LIMIT = RateLimiter(bandwidth=Bucket(size=1 << 20, refill_time=100), ops=Bucket(size=1000, refill_time=100, one_time_burst=500))


async def configure(api: Api) -> None:
    await api.set_machine(vcpus=1, memory_mib=64)
    await api.set_boot(kernel="kernel", initrd=None, arguments="quiet -- vsock")
    await api.set_drive("disk", "disk", read_only=True, limit=LIMIT)
    await api.set_network("eth0", tap="tap0", mac="02:00:00:00:00:02", received=LIMIT, sent=LIMIT)
    await api.set_metadata_service(interfaces=["eth0"])
    await api.put_metadata({"latest": {"region": "lhr"}})
    await api.set_vsock(cid=3, path="v.sock")
    await api.set_balloon(mib=0, statistics_s=1)
    await api.set_metrics("metrics")


async def test_a_whole_life(api: Api, server: Server) -> None:
    await configure(api)
    assert await api.state() == "Not started"
    await api.start()
    assert await api.state() == "Running"
    assert await api.get("/mmds") == {"latest": {"region": "lhr"}}
    await api.flush_metrics()
    await api.limit_drive("disk", RateLimiter(ops=Bucket(size=0, refill_time=0)))
    await api.limit_network("eth0", received=RateLimiter(bandwidth=Bucket(size=0, refill_time=0)))
    config = await api.get("/vm/config")
    assert config["drives"][0]["rate_limiter"]["ops"] is None
    assert config["network-interfaces"][0]["rx_rate_limiter"]["bandwidth"] is None
    assert config["network-interfaces"][0]["tx_rate_limiter"]["bandwidth"]["size"] == 1 << 20
    await api.resize_balloon(8)
    assert (await api.balloon_statistics())["target_mib"] == 8
    await api.pause()
    await api.pause()
    assert await api.state() == "Paused"
    await api.resume()


async def test_a_snapshot_is_taken_of_one_that_stands_still_and_loaded_by_a_fresh_one(api: Api, tmp_path: Path) -> None:
    await configure(api)
    await api.start()
    with pytest.raises(ApiError, match="while running"):
        await api.create_snapshot(state="state", memory="memory")
    await api.pause()
    await api.create_snapshot(state="state", memory="memory")
    async with serving(Machine(tmp_path), tmp_path / "clone.sock"):
        clone = Api(tmp_path, "clone.sock")
        await clone.load_snapshot(state="state", backend="File", memory="memory", taps={"eth0": "tap1"})
        assert await clone.state() == "Paused"
        assert (await clone.get("/vm/config"))["network-interfaces"][0]["host_dev_name"] == "tap1"
        await clone.resume()
        clone.close()


async def test_refusals_are_told_in_its_words(api: Api) -> None:
    with pytest.raises(ApiError, match="PUT /boot-source: Boot source error: The kernel file cannot be opened"):
        await api.set_boot(kernel="missing", initrd=None, arguments="")
    with pytest.raises(ApiError, match="not supported before starting"):
        await api.pause()
    with pytest.raises(ApiError, match="only contain alphanumeric"):
        await api.set_drive("a-b", "disk", read_only=True)
    with pytest.raises(ApiError, match="at most 51200"):
        await api.put_metadata({"x": "y" * 60_000})
    assert await api.state() == "Not started"  # the connection is as good as before


async def test_one_that_is_gone_or_silent_is_lost(api: Api, tmp_path: Path) -> None:
    with pytest.raises(ApiLost):
        await Api(tmp_path, "none.sock").state()
    (tmp_path / "file").touch()
    with pytest.raises(ApiLost, match="no socket"):
        await Api(tmp_path, "file").state()
    (tmp_path / "link").symlink_to("api.sock")
    with pytest.raises(ApiLost):  # links are not followed: a monitor could make one to anything
        await Api(tmp_path, "link").state()
    silent = await asyncio.start_unix_server(lambda reader, writer: asyncio.sleep(60), str(tmp_path / "silent.sock"))
    with pytest.raises(ApiLost, match="no answer within"):
        await Api(tmp_path, "silent.sock").call("GET", "/", timeout_s=0.2)
    silent.close()
