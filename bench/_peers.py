"""What a worker is compared with: the same code on bare workerd, in miniflare and in `wrangler dev`, all of one version."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters import tools
from skerry.testing.backends import fetch

CODE = "export default { fetch() { return new Response('hello') } }\n"
DATE = "2026-01-01"
READY_S_MAX = 90
_LOCAL = {
    "CLOUDFLARE_CF_FETCH_ENABLED": "false",  # nothing here asks the internet for anything
    "WRANGLER_SEND_METRICS": "false",
    "WRANGLER_SEND_ERROR_REPORTS": "false",
    "WRANGLER_HIDE_BANNER": "true",
    "CI": "1",
}
_WORKERD = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(
    name = "main",
    worker = (modules = [(name = "index.js", esModule = embed "index.js")], compatibilityDate = "{date}"),
  )],
  sockets = [(name = "http", address = "{address}", http = (), service = "main")],
);
"""
_MINIFLARE = """import {{ Miniflare, convertV4MiniflareOptions }} from "{package}";
const miniflare = new Miniflare(convertV4MiniflareOptions({{
  name: "hello", modules: true, scriptPath: "index.js", compatibilityDate: "{date}", host: "127.0.0.1", port: {port}, cf: false,
}}));
await miniflare.ready;
"""


def project(directory: Path, name: str, code: str = CODE) -> Path:
    """A wrangler project."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "index.js").write_text(code)
    described = {"name": name, "main": "index.js", "compatibility_date": DATE}
    (directory / "wrangler.json").write_text(json.dumps(described))
    return directory


@contextlib.asynccontextmanager
async def bare(directory: Path) -> AsyncIterator[str]:
    """Stock workerd, without a sandbox; yields its address."""
    address = free_address()
    project(directory, "bare")
    (directory / "config.capnp").write_text(_WORKERD.format(date=DATE, address=address))
    async with running(address, directory, str(tools.find_workerd().require()), "serve", "config.capnp"):
        yield address


@contextlib.asynccontextmanager
async def miniflare(directory: Path) -> AsyncIterator[str]:
    """The one that wrangler brings, by its API."""
    address = free_address()
    project(directory, "miniflare")
    package = tools.tree() / "node_modules/miniflare/dist/src/index.js"
    program = _MINIFLARE.format(package=package, date=DATE, port=address.rpartition(":")[2])
    (directory / "serve.mjs").write_text(program)
    async with running(address, directory, str(tools.find_node().require()), "serve.mjs"):
        yield address


@contextlib.asynccontextmanager
async def wrangler_dev(directory: Path) -> AsyncIterator[str]:
    address = free_address()
    project(directory, "dev")
    host, _, port = address.rpartition(":")
    script = str(tools.find_wrangler().require())
    arguments = ("dev", "--ip", host, "--port", port, "--inspector-port", "0", "--show-interactive-dev-session=false")
    async with running(address, directory, str(tools.find_node().require()), script, *arguments, "--log-level", "error"):
        yield address


@contextlib.asynccontextmanager
async def running(address: str, directory: Path, *argv: str) -> AsyncIterator[None]:
    """From its first answer to its end; it is the leader of a process group, so that its children end with it."""
    log = (directory / "log").open("wb")
    path = f"{tools.find_node().require().parent}:{os.environ['PATH']}"
    environment = {**os.environ, **_LOCAL, "PATH": path, "HOME": str(directory)}
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=directory, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
    )
    try:
        async with asyncio.timeout(READY_S_MAX):
            while not await answers(address):
                assert process.returncode is None, (directory / "log").read_text()[-2000:]
                await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        log.close()


async def answers(address: str, host: str = "localhost") -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(5):
            return (await fetch(address, host)).status == 200
    return False


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
