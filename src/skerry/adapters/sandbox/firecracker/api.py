"""Firecracker's API (`firecracker.yaml` of its release 1.17): JSON over HTTP/1.1, on a Unix socket.

The calls that a machine's life needs, by the names of their paths, and nothing of when to call which. Answers are served
one at a time and are short; one that does not come within `timeout_s` will not come at all (a page server that died holds
all of them back).
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from skerry.adapters.sandbox.microvm import sockets

ANSWER_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 51_200  # Firecracker's own limit; what is longer is taken for further requests
CALL_TIMEOUT_S = 20

State = Literal["Not started", "Running", "Paused"]


class ApiError(Exception):
    """Firecracker refuses, in its own words."""


class ApiLost(ApiError):
    """Firecracker has ended, or does not answer."""


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token bucket: `size` tokens (bytes or operations), filled anew in `refill_time` ms. Zero and zero: no limit."""

    size: int
    refill_time: int
    one_time_burst: int | None = None


class RateLimiter(msgspec.Struct, frozen=True, omit_defaults=True):
    bandwidth: Bucket | None = None
    ops: Bucket | None = None


class Api:
    """One connection, opened when it is needed, and again after an error."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()

    async def state(self) -> State:
        return (await self.get("/"))["state"]

    async def set_machine(self, *, vcpus: int, memory_mib: int, track_dirty_pages: bool = False) -> None:
        await self.put("/machine-config", vcpu_count=vcpus, mem_size_mib=memory_mib, track_dirty_pages=track_dirty_pages)

    async def set_boot(self, *, kernel: str, initrd: str | None, arguments: str) -> None:
        given = {"initrd_path": initrd} if initrd else {}
        await self.put("/boot-source", kernel_image_path=kernel, boot_args=arguments, **given)

    async def set_drive(self, drive: str, path: str, *, read_only: bool, limit: RateLimiter | None = None) -> None:
        given = {"rate_limiter": limit} if limit else {}
        await self.put(
            f"/drives/{drive}", drive_id=drive, path_on_host=path, is_root_device=False, is_read_only=read_only, **given
        )

    async def limit_drive(self, drive: str, limit: RateLimiter) -> None:
        await self.patch(f"/drives/{drive}", drive_id=drive, rate_limiter=limit)

    async def set_network(
        self, interface: str, *, tap: str, mac: str, received: RateLimiter | None = None, sent: RateLimiter | None = None
    ) -> None:
        limits = {name: limit for name, limit in (("rx_rate_limiter", received), ("tx_rate_limiter", sent)) if limit}
        await self.put(f"/network-interfaces/{interface}", iface_id=interface, host_dev_name=tap, guest_mac=mac, **limits)

    async def limit_network(
        self, interface: str, *, received: RateLimiter | None = None, sent: RateLimiter | None = None
    ) -> None:
        limits = {name: limit for name, limit in (("rx_rate_limiter", received), ("tx_rate_limiter", sent)) if limit}
        await self.patch(f"/network-interfaces/{interface}", iface_id=interface, **limits)

    async def set_vsock(self, *, cid: int, path: str) -> None:
        await self.put("/vsock", guest_cid=cid, uds_path=path)

    async def set_balloon(self, *, mib: int, statistics_s: int) -> None:
        await self.put("/balloon", amount_mib=mib, deflate_on_oom=True, stats_polling_interval_s=statistics_s)

    async def resize_balloon(self, mib: int) -> None:
        await self.patch("/balloon", amount_mib=mib)

    async def balloon_statistics(self) -> dict[str, int]:
        return await self.get("/balloon/statistics")

    async def set_metadata_service(self, *, interfaces: list[str]) -> None:
        """Version 2, with tokens: the first one is deprecated."""
        await self.put("/mmds/config", version="V2", network_interfaces=interfaces)

    async def put_metadata(self, data: dict[str, Any]) -> None:
        """They are not part of a snapshot: a clone gets its own."""
        await self.call("PUT", "/mmds", msgspec.json.encode(data))

    async def set_metrics(self, path: str) -> None:
        await self.put("/metrics", metrics_path=path)

    async def flush_metrics(self) -> None:
        await self.put("/actions", action_type="FlushMetrics")

    async def start(self) -> None:
        await self.put("/actions", action_type="InstanceStart")

    async def pause(self) -> None:
        await self.patch("/vm", state="Paused")

    async def resume(self) -> None:
        await self.patch("/vm", state="Resumed")

    async def create_snapshot(self, *, state: str, memory: str, full: bool = True, timeout_s: float = 120) -> None:
        body = {"snapshot_type": "Full" if full else "Diff", "snapshot_path": state, "mem_file_path": memory}
        await self.call("PUT", "/snapshot/create", msgspec.json.encode(body), timeout_s=timeout_s)

    async def load_snapshot(self, *, state: str, backend: Literal["File", "Uffd"], memory: str, taps: dict[str, str]) -> None:
        """It stands still afterwards. Refused once anything about booting was set; any other failure ends Firecracker."""
        body: dict[str, object] = {
            "snapshot_path": state,
            "mem_backend": {"backend_type": backend, "backend_path": memory},
            "resume_vm": False,
            "network_overrides": [{"iface_id": name, "host_dev_name": tap} for name, tap in sorted(taps.items())],
        }
        await self.call("PUT", "/snapshot/load", msgspec.json.encode(body), timeout_s=120)

    async def get(self, path: str) -> Any:
        return msgspec.json.decode(await self.call("GET", path))

    async def put(self, path: str, **body: object) -> None:
        await self.call("PUT", path, msgspec.json.encode(body))

    async def patch(self, path: str, **body: object) -> None:
        await self.call("PATCH", path, msgspec.json.encode(body))

    async def call(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """The answer's body. Raises `ApiError`, `ApiLost`."""
        if len(body) > BODY_BYTES_MAX:
            raise ApiError(f"{method} {path}: {len(body)} bytes; at most {BODY_BYTES_MAX}")
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s):
                    status, answer = await self._exchange(method, path, body)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
                self.close()
                raise ApiLost(f"{method} {path}: {str(error) or f'no answer within {timeout_s:.0f} s'}") from error
            except BaseException:
                self.close()  # its answer would be taken for that of the next call
                raise
        if status >= 300:
            raise ApiError(f"{method} {path}: {_fault(answer)}")
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            connection = await sockets.connect(self._directory, self._name)
            self._streams = await asyncio.open_unix_connection(sock=connection)
        reader, writer = self._streams
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n{length}\r\n".encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        if not 0 <= size <= ANSWER_BYTES_MAX:
            raise ValueError(f"an answer of {size} bytes")
        return int(status_line.split(" ")[1]), await reader.readexactly(size)


def _fault(answer: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, AttributeError):
        return str(msgspec.json.decode(answer)["fault_message"])
    return answer.decode(errors="replace")[:500]
