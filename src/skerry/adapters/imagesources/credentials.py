"""Who a deployer is to a registry: what `docker login` left, or a helper that it names."""

import asyncio
import base64
import binascii
import os
from pathlib import Path

import msgspec

from skerry.kit.record import Record

HELPER_TIMEOUT_S = 20
REFRESH_USER = "<token>"  # how helpers say that the secret is a refresh token


class Credentials(Record):
    """A user and password, or a refresh token ("identity token") alone."""

    user: str = ""
    password: str = ""
    refresh_token: str = ""

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _Helped(msgspec.Struct, frozen=True, rename="pascal"):
    username: str = ""
    secret: str = ""


def docker_config() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


async def find_credentials(host: str, *, config: Path | None = None) -> Credentials | None:
    """For `host` as written in a reference; None if nobody is logged in, or the file cannot be read."""
    try:
        found = msgspec.json.decode((config or docker_config()).read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError):
        return None
    helper = found.cred_helpers.get(host) or (found.creds_store if host not in found.auths else "")
    if helper:
        return await _ask_helper(helper, host)
    for name, entry in found.auths.items():
        if name.removeprefix("https://").removeprefix("http://").split("/")[0] == host:
            return _of_entry(entry)
    return None


def _of_entry(entry: _Entry) -> Credentials | None:
    if entry.identitytoken:
        return Credentials(refresh_token=entry.identitytoken)
    user, password = entry.username, entry.password
    if entry.auth:
        try:
            user, _, password = base64.b64decode(entry.auth).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    return Credentials(user=user, password=password) if user else None


async def _ask_helper(helper: str, host: str) -> Credentials | None:
    """`docker-credential-<helper> get`: the host on its stdin, JSON on its stdout."""
    if not helper.replace("-", "").isalnum():
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            f"docker-credential-{helper}", "get",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            out, _ = await process.communicate(host.encode())
        said = msgspec.json.decode(out, type=_Helped)
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None
    if said.username == REFRESH_USER:
        return Credentials(refresh_token=said.secret)
    return Credentials(user=said.username, password=said.secret) if said.username else None
