"""A small registry on loopback, for tests: token or basic login, redirected blobs, and faults on demand."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from skerry.testing.images import Built

USER, PASSWORD = "ada", "lovelace"
_BEARER = "t0k3n"


class TestRegistry:
    """`login` is what it asks for. `blob_cuts` answers of blobs are broken off after half of the rest."""

    __test__ = False

    def __init__(self, login: Literal["none", "token", "basic"] = "none", *, redirect_blobs: bool = False) -> None:
        self.login = login
        self.redirect_blobs = redirect_blobs
        self.blob_cuts = 0
        self.damage = False
        self.address = ""
        self.seen: list[tuple[str, dict[str, str]]] = []  # (target, headers) of each request
        self._documents: dict[str, tuple[str, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> "TestRegistry":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def add(self, name: str, tag: str, *images: Built) -> str:
        """One image, or an index of several; its digest."""
        entries: list[dict[str, object]] = []
        for built in images:
            data = built.blobs[built.image.manifest]
            kind = "application/vnd.oci.image.manifest.v1+json"
            self._documents[f"{name}/sha256:{built.image.manifest}"] = (kind, data)
            self._blobs.update({f"sha256:{digest}": blob for digest, blob in built.blobs.items()})
            platform = {"os": "linux", "architecture": built.image.architecture}
            entries.append(
                {"mediaType": kind, "digest": f"sha256:{built.image.manifest}", "size": len(data), "platform": platform}
            )
        if len(images) == 1:
            self._documents[f"{name}/{tag}"] = self._documents[f"{name}/{entries[0]['digest']}"]
        else:
            index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
            self._documents[f"{name}/{tag}"] = ("application/vnd.oci.image.index.v1+json", index)
        return str(entries[0]["digest"])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                first, *lines = head.split("\r\n")
                headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)}
                await reader.readexactly(int(headers.get("content-length", "0")))
                target = first.split(" ")[1]
                self.seen.append((target, headers))
                writer.write(self._answer(target, headers))
                await writer.drain()
                if self._cut:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    _cut = False

    def _answer(self, target: str, headers: dict[str, str]) -> bytes:
        self._cut = False
        path = urlsplit(target).path
        if path == "/token":
            return self._token(target, headers)
        if path.startswith("/store/"):
            return self._blob(path.removeprefix("/store/"), headers)
        if not self._let_in(headers):
            return self._challenge()
        name, kind, version = path.removeprefix("/v2/").rsplit("/", 2)
        if kind == "blobs":
            if self.redirect_blobs:
                port = self.address.rpartition(":")[2]
                return _reply(307, b"", {"location": f"http://localhost:{port}/store/{version}"})
            return self._blob(version, headers)
        found = self._documents.get(f"{name}/{version}")
        return _reply(404, b"{}") if found is None else _reply(200, found[1], {"content-type": found[0]})

    def _let_in(self, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "")
        return {"none": True, "token": given == f"Bearer {_BEARER}", "basic": given == _basic()}[self.login]

    def _challenge(self) -> bytes:
        if self.login == "basic":
            return _reply(401, b"", {"www-authenticate": 'Basic realm="test"'})
        realm = f"http://{self.address}/token"
        return _reply(401, b"", {"www-authenticate": f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'})

    def _token(self, target: str, headers: dict[str, str]) -> bytes:
        if parse_qs(urlsplit(target).query).get("service") != ["test"] or headers.get("authorization") != _basic():
            return _reply(401, b"{}")
        return _reply(200, json.dumps({"token": _BEARER}).encode())

    def _blob(self, digest: str, headers: dict[str, str]) -> bytes:
        data = self._blobs.get(digest)
        if data is None:
            return _reply(404, b"")
        if self.damage:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        answer = _reply(206 if start else 200, data[start:])
        if self.blob_cuts:
            self.blob_cuts -= 1
            self._cut = True
            return answer[: len(answer) - (len(data) - start) // 2]
        return answer


def docker_config(path: Path, host: str) -> Path:
    """What `docker login` leaves."""
    path.write_text(json.dumps({"auths": {host: {"auth": _basic().removeprefix("Basic ")}}}))
    return path


def _basic() -> str:
    return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def _reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    lines = "".join(f"{key}: {value}\r\n" for key, value in {**(headers or {}), "content-length": str(len(body))}.items())
    return f"HTTP/1.1 {status} -\r\n{lines}\r\n".encode() + body
