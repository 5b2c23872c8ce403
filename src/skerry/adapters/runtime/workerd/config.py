"""workerd's configuration, made from a version: one binary message that goes to its stdin and nowhere else.

Built by its own schema (the npm package's `workerd.capnp`). The generator gives a tenant exactly the bindings of its
version: never `unsafeEval`, the debug port, `fromEnvironment`, or a disk.
"""

import functools
import importlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from skerry.adapters.runtime.workerd.sandbox import ASSETS_DIRECTORY, EGRESS_DIRECTORY, HEALTH_DIRECTORY
from skerry.core.types.app import (
    Assets,
    AssetsBinding,
    Binding,
    BlobBinding,
    JsonBinding,
    SecretBinding,
    TextBinding,
    Version,
    VersionMetadataBinding,
    Worker,
)
from skerry.core.types.ids import Digest

Config = dict[str, Any]  # a message as pycapnp takes it
Contents = dict[Digest, bytes]

HTTP_SOCKET = "http"
HEALTH_SOCKET = "health"
EGRESS_SOCKET = "egress.sock"
CACHE_SOCKET = "cache.sock"
ASSETS_SOCKET = "assets.sock"

# Not refused by workerd's own "public": benchmarking networks, and IPv4 behind NAT64 and 6to4.
EGRESS_DENY = ("198.18.0.0/15", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")

# The Cache API where there is no cache: nothing is ever found, and what is put is taken and forgotten.
_NO_CACHE = """export default {
  async fetch(request) {
    for await (const _ of request.body ?? []) {} // an answer before the end would cut the sender off
    if (request.method === "PUT") return new Response(null, {status: 204});
    if (request.method === "PURGE") return new Response(null, {status: 404});
    return new Response(null, {status: 504, headers: {"CF-Cache-Status": "MISS"}});
  }
};"""
# The C++ halves of requests live until V8 collects the young generation, which by default grows to 16 MB first: a busy
# "hello" then holds 280 MB, with this 225, and answers as many requests. Not among the flags that void V8's cached code.
_YOUNG_GENERATION = "--max-semi-space-size=4"
_PLATFORM_DATE = "2026-01-01"  # compatibility date of our own few lines


class Unsupported(Exception):
    """This runtime has no such thing; the text is for the version's author."""


class AssetsService(Protocol):
    """What the assets process has to know of one version."""

    @property
    def key(self) -> str: ...

    @property
    def directory(self) -> str: ...

    @property
    def rules(self) -> str: ...

    @property
    def upstream(self) -> str | None: ...


def app_config(version: Version, contents: Contents, *, forwarded_proto_header: str = "", cf_header: str = "") -> Config:
    """One app: its worker at the socket "http", and the health check beside it. Raises `Unsupported`."""
    worker = version.worker
    assert worker is not None, "a version of assets alone has no process"
    http: Config = {}
    if forwarded_proto_header:
        http["forwardedProtoHeader"] = forwarded_proto_header
    if cf_header:
        http["cfBlobHeader"] = cf_header
    needs_assets = any(isinstance(binding, AssetsBinding) for binding in version.bindings)
    return {
        "services": [
            {"name": "app", "worker": _worker(version, worker, contents)},
            _external("internet", f"unix:{EGRESS_DIRECTORY}/{EGRESS_SOCKET}", style="proxy"),
            _external("cache", f"unix:{EGRESS_DIRECTORY}/{CACHE_SOCKET}", style="proxy"),
            *([_external("assets", f"unix:{ASSETS_DIRECTORY}/{ASSETS_SOCKET}")] if needs_assets else []),
            _health_service(),
        ],
        "sockets": [_socket(HTTP_SOCKET, "app", http), _socket(HEALTH_SOCKET, "health")],
        "v8Flags": [_YOUNG_GENERATION],
    }


def egress_config(allow: tuple[str, ...]) -> Config:
    """The way out of all apps of a node: a proxy that reaches public addresses, and those the operator allows."""
    network = {
        "allow": ["public", *allow],
        "deny": [network for network in EGRESS_DENY if network not in allow],
        "tlsOptions": {"trustBrowserCas": True},
    }
    no_cache = {"modules": [{"name": "cache.js", "esModule": _NO_CACHE}], "compatibilityDate": _PLATFORM_DATE}
    return {
        "services": [
            {"name": "internet", "network": network},
            {"name": "cache", "worker": {**no_cache, "globalOutbound": {"name": "internet"}}},
            _health_service(),
        ],
        "sockets": [
            _socket("egress", "internet", {"style": "proxy"}),
            _socket("cache", "cache", {"style": "proxy"}),
            _socket(HEALTH_SOCKET, "health"),
        ],
    }


def assets_config(services: tuple[AssetsService, ...]) -> Config:
    """The assets of a node: per version a socket "in-<key>" for users and "env-<key>" for its `env.ASSETS`."""
    parts: list[Config] = [_no_network(), _health_service()]
    sockets: list[Config] = [_socket(HEALTH_SOCKET, "health")]
    for service in services:
        files: Config = {"path": service.directory, "config": service.rules}
        parts.append({"name": f"files-{service.key}", "assets": {**files, "compatibilityDate": _PLATFORM_DATE}})
        if service.upstream is None:
            front = f"files-{service.key}"
        else:
            front = f"front-{service.key}"
            parts.append(_external(f"app-{service.key}", service.upstream))
            # No compatibility date beside a user worker: workerd refuses it.
            parts.append({"name": front, "assets": {**files, "userWorker": {"name": f"app-{service.key}"}}})
            sockets.append(_socket(f"env-{service.key}", f"files-{service.key}"))
        sockets.append(_socket(f"in-{service.key}", front))
    return {"services": parts, "sockets": sockets}


def rules_config(assets: Assets) -> Config:
    """The rules of assets alone, without a file: whether workerd takes them."""
    service = {"path": HEALTH_DIRECTORY, "config": assets_rules(assets), "compatibilityDate": _PLATFORM_DATE}
    return {
        "services": [_no_network(), _health_service(), {"name": "rules", "assets": service}],
        "sockets": [_socket(HEALTH_SOCKET, "health")],
    }


def assets_rules(assets: Assets, *, more_headers: str = "") -> str:
    """The JSON that workerd takes for wrangler's settings of assets."""
    worker_first = assets.run_worker_first
    rules = {
        "html_handling": assets.html_handling,
        "not_found_handling": assets.not_found_handling,
        "run_worker_first": worker_first if isinstance(worker_first, bool) else list(worker_first),
        "headers": more_headers + assets.headers,
        "redirects": assets.redirects,
    }
    return json.dumps(rules)


@functools.cache
def _schema(path: str) -> Any:
    capnp = importlib.import_module("capnp")  # made at run time by Cython: it has no types to check by
    includes = [str(Path(str(capnp.__file__)).parents[1])]  # where "/capnp/c++.capnp" is found
    return capnp.load(path, imports=includes)


def encode_config(config: Config, schema: str) -> bytes:
    """The binary message for `workerd serve --binary -`; `schema` is the path of workerd.capnp."""
    return cast(bytes, _schema(schema).Config.new_message(**config).to_bytes())


def _worker(version: Version, worker: Worker, contents: Contents) -> Config:
    common: Config = {
        "compatibilityDate": version.compatibility_date,
        "compatibilityFlags": list(version.compatibility_flags),
        "bindings": [_binding(version, binding, contents) for binding in version.bindings],
        "globalOutbound": {"name": "internet"},
        "cacheApiOutbound": {"name": "cache"},
    }
    modules = {module.name: module for module in worker.modules}
    main = modules[worker.main_module]
    if worker.service_worker_syntax:
        return {"serviceWorkerScript": _text(contents[main.digest], main.name), **common}
    ordered = [main, *(module for module in worker.modules if module is not main)]  # workerd takes the first as main
    return {"modules": [_module(module.name, module.type, contents[module.digest]) for module in ordered], **common}


def _module(name: str, kind: str, content: bytes) -> Config:
    match kind:
        case "esm":
            return {"name": name, "esModule": _text(content, name)}
        case "commonjs":
            return {"name": name, "commonJsModule": _text(content, name)}
        case "text":
            return {"name": name, "text": _text(content, name)}
        case "json":
            return {"name": name, "json": _text(content, name)}
        case "data":
            return {"name": name, "data": content}
        case "wasm":
            return {"name": name, "wasm": content}
        case _:
            raise Unsupported(f"module {name}: {kind} modules are not supported here")


def _binding(version: Version, binding: Binding, contents: Contents) -> Config:
    return {"name": binding.name, **_value(version, binding, contents)}


def _value(version: Version, binding: Binding, contents: Contents) -> Config:
    match binding:
        case TextBinding() | SecretBinding():
            value: Config = {"text": binding.text}
        case JsonBinding():
            value = {"json": binding.json}
        case BlobBinding(type="text"):
            value = {"text": _text(contents[binding.digest], binding.name)}
        case BlobBinding(type="data"):
            value = {"data": contents[binding.digest]}
        case BlobBinding():
            value = {"wasmModule": contents[binding.digest]}
        case AssetsBinding():
            value = {"service": {"name": "assets"}}
        case VersionMetadataBinding():
            created = datetime.fromtimestamp(version.created_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
            value = {"json": json.dumps({"id": version.id, "tag": version.tag, "timestamp": created})}
    return value


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unsupported(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _external(name: str, address: str, *, style: str = "host") -> Config:
    return {"name": name, "external": {"address": address, "http": {"style": style}}}


def _no_network() -> Config:
    """Defined so that workerd's own default, which loads every CA certificate of the machine, is not."""
    return {"name": "internet", "network": {"allow": []}}


def _health_service() -> Config:
    """Answered without an isolate and without anybody's code: what it tells is that the event loop turns."""
    return {"name": "health", "disk": {"path": HEALTH_DIRECTORY}}


def _socket(name: str, service: str, http: Config | None = None) -> Config:
    return {"name": name, "http": http or {}, "service": {"name": service}}
