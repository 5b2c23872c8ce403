"""Versions of workers for tests, with their blobs in memory."""

import hashlib

from skerry.core.types.app import AssetFile, Assets, Binding, Limits, Module, ModuleType, Version, Worker
from skerry.core.types.ids import AccountId, AppName, Digest, InstanceId, VersionId
from skerry.core.types.slices import NodeInstance
from skerry.kit.hashing import stable_id
from skerry.kit.record import encode
from skerry.ports.links import Unreachable

HELLO = "export default { fetch(request, env) { return new Response('hello ' + new URL(request.url).pathname); } };"
DATE = "2026-01-01"


class WorkerShop:
    """Makes instances of versions; `fetch` is what a runtime gets its blobs by, unless nobody can be reached."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.fetched: list[Digest] = []
        self.reachable = True

    async def fetch(self, digest: Digest) -> bytes:
        self.fetched.append(digest)
        if not self.reachable:
            raise Unreachable("cut off")
        return self.blobs[digest]

    def put(self, data: bytes) -> Digest:
        digest = Digest(hashlib.sha256(data).hexdigest())
        self.blobs[digest] = data
        return digest

    def module(self, name: str, content: str | bytes, kind: ModuleType = "esm") -> Module:
        data = content.encode() if isinstance(content, str) else content
        return Module(name=name, type=kind, digest=self.put(data), size=len(data))

    def assets(self, files: dict[str, str | bytes], **settings: object) -> Assets:
        """Static files by path, and Cloudflare's settings by name (html_handling, headers, …)."""
        listed: list[AssetFile] = []
        for path in sorted(files):
            content = files[path]
            data = content.encode() if isinstance(content, str) else content
            listed.append(AssetFile(path=path, digest=self.put(data), size=len(data)))
        manifest = self.put(encode(tuple(listed)))
        total = sum(file.size for file in listed)
        return Assets(manifest=manifest, file_count=len(listed), total_bytes=total, **settings)  # pyright: ignore[reportArgumentType]

    def instance(
        self,
        name: str,
        source: str | None = HELLO,
        *,
        modules: tuple[Module, ...] = (),
        bindings: tuple[Binding, ...] = (),
        assets: Assets | None = None,
        flags: tuple[str, ...] = (),
        date: str = DATE,
        limits: Limits | None = None,
        service_worker_syntax: bool = False,
    ) -> NodeInstance:
        """An instance of an app `name`; source None: an app of assets alone."""
        worker = None
        if source is not None:
            main = self.module("index.js", source)
            worker = Worker(main_module="index.js", modules=(main, *modules), service_worker_syntax=service_worker_syntax)
        version = Version(
            id=VersionId(stable_id("version", name, source or "")),
            account=AccountId("0" * 32),
            app=AppName(name),
            number=1,
            created_ms=1_700_000_000_000,
            digest=Digest("0" * 64),
            compatibility_date=date,
            compatibility_flags=flags,
            worker=worker,
            assets=assets,
            bindings=bindings,
            limits=limits or Limits(),
        )
        return NodeInstance(id=InstanceId(stable_id("instance", name, version.id)), version=version)
