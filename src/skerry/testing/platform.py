"""A real platform on this machine, started and ended by the program that people use."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from skerry.adapters.process.detached import TAG_VARIABLE
from skerry.kit.hashing import stable_id
from skerry.testing.wrangler import ROOT, Wrangler, wrangler

READY_S_MAX = 60.0
END_S_MAX = 20.0
POLL_S = 0.05
ADDRESSES = tuple(f"127.0.{number}.1" for number in range(1, 9))


class Platform:
    """`async with Platform(cities="lhr:2,cur:1") as platform`. Everything of it is in a directory of its own.

    `bases` are the sites' `host:port` for users. Commands run with the environment of a person who did nothing but
    name the data directory.
    """

    def __init__(
        self,
        *,
        cities: str = "lhr:3,cur:3,sin:2",
        data_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="skerry-"))
        self.data = data_dir or self._scratch / "data"
        self.port, self.api_port = free_ports()
        self._cities = cities
        self._options = options
        cache = {"NODE_COMPILE_CACHE": str(ROOT / ".cache/node")}  # starts wrangler faster
        self._env = {**os.environ, **cache, "SKERRY_DATA_DIR": str(self.data), **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._http = httpx.AsyncClient(timeout=10)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
        await self._http.aclose()
        if error is None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def start(self) -> None:
        """Returns when it says that it is ready; raises AssertionError with its output otherwise."""
        await self.begin()
        await self.until(self._is_ready, limit_s=READY_S_MAX, what=lambda: self.log()[-4000:])

    async def begin(self) -> None:
        """Start it and do not wait."""
        with (self._scratch / "up.log").open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *program(),
                *self.up_arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._env,
                start_new_session=True,
            )

    def up_arguments(self) -> list[str]:
        ports = ["--port", str(self.port), "--api-port", str(self.api_port)]
        return ["up", "--cities", self._cities, *ports, "--no-example", *self._options]

    async def stop(self, number: int = signal.SIGINT) -> int | None:
        """SIGINT, as Ctrl-C sends it; the exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            process.send_signal(number)
        async with asyncio.timeout(END_S_MAX):
            return await process.wait()

    async def kill(self) -> None:
        """kill -9 of the supervisor, if it still lives; returns when it has ended."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def env(self) -> dict[str, str]:
        """What its commands have as their environment."""
        return dict(self._env)

    def log(self) -> str:
        """All that `skerry up` printed so far."""
        return (self._scratch / "up.log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def command(self, *arguments: str, cwd: Path | None = None, stdin: str = "", **env: str) -> tuple[int, str]:
        """Run `skerry …`: its exit status and all that it printed. `env` is added to its environment."""
        process = await asyncio.create_subprocess_exec(
            *program(),
            *arguments,
            cwd=cwd,
            env={**self._env, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode("utf-8", "replace")

    async def wrangler(self, *arguments: str, cwd: Path, stdin: str = "") -> str:
        """The stock client; raises AssertionError with its output if it fails."""
        status, out = await self.command("wrangler", *arguments, cwd=cwd, stdin=stdin)
        assert status == 0, out
        return out

    async def client(self, version: str, home: Path, *, account: str = "default", token: str = "") -> Wrangler:
        """A stock wrangler of that version, which is told where the API is and nothing else."""
        url = f"http://127.0.0.1:{self.api_port}"
        return wrangler(version, api_url=url, account=await self.account(account), token=token or self.token(), home=home)

    async def account(self, name: str = "default") -> str:
        """The id of the account with that name."""
        accounts = (await self.api("GET", "/v1/accounts"))["accounts"]
        return next(item["account"] for item in accounts if item["name"] == name)

    async def deploy(self, project: Path) -> None:
        await self.wrangler("deploy", cwd=project)

    async def upload(self, app: str, code: str) -> int:
        """Deploy one module in one request, as wrangler does at last; the status, or 0 if control died over it."""
        metadata = {"main_module": "index.js", "compatibility_date": "2026-11-01"}
        files = {
            "metadata": (None, json.dumps(metadata), "application/json"),
            "index.js": ("index.js", code, "application/javascript+module"),
        }
        url = f"http://127.0.0.1:{self.api_port}/client/v4/accounts/{await self.account()}/workers/scripts/{app}"
        try:
            response = await self._http.put(url, files=files, headers={"authorization": f"Bearer {self.token()}"})
        except httpx.TransportError:
            return 0
        return response.status_code

    async def status(self) -> dict[str, Any]:
        """What `skerry status --json` shows, from the API itself."""
        return await self.api("GET", "/v1/status")

    async def api(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = await self._http.request(
            method,
            f"http://127.0.0.1:{self.api_port}{path}",
            headers={"authorization": f"Bearer {self.token()}"},
            content=None if body is None else json.dumps(body),
        )
        assert response.status_code < 300, response.text
        return response.json()

    def token(self) -> str:
        return (self.data / "control" / "admin-token").read_text().strip()

    def base(self, site: str) -> str:
        """The users' `host:port` of a site, by its place in `cities`."""
        names = [part.partition(":")[0] for part in self._cities.split(",")]
        return f"{ADDRESSES[names.index(site)]}:{self.port}"

    async def get(self, site: str, app: str, path: str = "/", **options: Any) -> httpx.Response:
        """As a user in that city would."""
        return await self.request("GET", site, app, path, **options)

    async def request(self, method: str, site: str, app: str, path: str = "/", **options: Any) -> httpx.Response:
        """Options as httpx has them; redirects are not followed. `app` is `name` or `name.account`."""
        host = f"{app if '.' in app else f'{app}.default'}.localhost"
        headers = {"host": host, **options.pop("headers", {})}
        return await self._http.request(method, f"http://{self.base(site)}{path}", headers=headers, **options)

    async def instances(self, *, site: str | None = None, app: str | None = None) -> list[dict[str, Any]]:
        found = (await self.status())["instances"]
        return [i for i in found if site in (None, i["site"]) and app in (None, i["app"])]

    async def settled(self, app: str, sites: set[str], *, limit_s: float = 75.0) -> None:
        """Until the app's rollout is done and it serves in exactly these sites."""
        seen: dict[str, Any] = {}

        async def done() -> bool:
            found = [a for a in (await self.status())["apps"] if a["app"] == app]
            seen.update(found[0] if found else {})
            return bool(found) and found[0]["rollout"]["state"] == "done" and set(found[0]["sites"]) == sites

        await self.until(done, limit_s=limit_s, what=lambda: repr(seen))

    async def control_pid(self) -> int:
        """The pid of the control plane; raises AssertionError when it does not run."""
        found = [pid for pid in tagged(self.data) if _is_plane(pid, "control", of=self.pid)]
        assert found, "control does not run"
        return found[0]

    async def node_processes(self, node: str) -> list[int]:
        """Every process of a node: its agent and all that it started."""
        agent = next(n["pid"] for n in (await self.status())["nodes"] if n["node"] == node)
        return [agent, *tagged(self.data / "nodes" / node)]

    async def site_processes(self, site: str) -> list[int]:
        """Every process of a city: controller, ingress, and those of its nodes."""
        status = await self.status()
        controller = next(s["pid"] for s in status["sites"] if s["site"] == site)
        nodes = [n["node"] for n in status["nodes"] if n["site"] == site]
        found = [controller, *tagged(self.data / "sites" / site)]
        for node in nodes:
            found += await self.node_processes(node)
        return found

    async def until(
        self, holds: Callable[[], Awaitable[bool]], *, limit_s: float = 75.0, what: Callable[[], str] = lambda: ""
    ) -> None:
        """Ask again and again; errors count as "not yet". Raises AssertionError after `limit_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        last: BaseException | None = None
        while loop.time() < deadline:
            try:
                if await holds():
                    return
            except (httpx.HTTPError, AssertionError, OSError) as error:
                last = error
            if self._process is not None and self._process.returncode is not None:
                raise AssertionError(f"the platform ended with status {self._process.returncode}: {what()}")
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"not within {limit_s} s: {what()} {last or ''}")

    async def _is_ready(self) -> bool:
        record = json.loads((self.data / "platform.json").read_text())
        return bool(record.get("ready")) and record["pid"] == self.pid  # not that of a killed one


def _is_plane(pid: int, name: str, *, of: int) -> bool:
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return parent == of and f"skerry.apps.{name}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def program() -> list[str]:
    """How `skerry` is run: this interpreter, whatever is on PATH."""
    return [sys.executable, "-m", "skerry.apps.cli"]


def free_ports() -> tuple[int, int]:
    """A port whose three successors are free too on every address that a small platform uses, and one for the API."""
    for _ in range(200):
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port > 60_000 or not _all_free(port, stack):
                continue
            other = stack.enter_context(socket.socket())
            other.bind(("127.0.0.1", 0))
            return port, int(other.getsockname()[1])
    raise RuntimeError("no free ports")


def _all_free(port: int, stack: ExitStack) -> bool:
    for address in ADDRESSES:
        for number in range(port, port + 4):
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((address, number))
            except OSError:
                return False
    return True


def tagged(data_dir: Path) -> list[int]:
    """Processes that the plane with this data directory started, by the tag in their environment."""
    needle = f"{TAG_VARIABLE}={stable_id(str(data_dir), length=8)}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if needle in environment:
            found.append(int(entry.name))
    return found
