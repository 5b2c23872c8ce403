"""Images in a registry (OCI distribution specification): pinned by digest, read only, over HTTPS except on loopback.

    GET /v2/<name>/manifests/<tag or digest>  ->  401 with a challenge  ->  a token for this name, or basic  ->  again

A token or password goes to the host that asked for it (or names the realm) alone: blobs are often redirected to a store
elsewhere, which gets none.
"""

import ipaddress
import re
from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec

from skerry.adapters.imagesources import documents
from skerry.adapters.imagesources.credentials import Credentials
from skerry.adapters.imagesources.documents import Index, Manifest
from skerry.adapters.imagesources.reference import RegistryReference
from skerry.adapters.imagesources.streams import checked
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.hashing import content_digest
from skerry.ports.imagesources import BadSource, NoSuchSource, SourceRefused, SourceUnavailable

TIMEOUT_S = 30.0  # for each read, not for the whole
REDIRECTS_MAX = 5
TOKEN_BYTES_MAX = 1 << 20
ATTEMPTS_MAX = 4  # of one blob that is cut off; each goes on where the last ended
_ACCEPT = ", ".join(sorted(documents.MANIFEST_TYPES | documents.INDEX_TYPES))
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Registry:
    """One name in one registry, for one caller. Holds connections: close it."""

    def __init__(
        self, reference: RegistryReference, credentials: Credentials | None, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._reference = reference
        self._credentials = credentials
        self._authorization = ""
        self._base = f"{_scheme(reference.host)}://{reference.host}/v2/{reference.name}"
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, transport=transport, trust_env=not _is_loopback(reference.host))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def document(self, version: str, *, digest: Digest | None) -> tuple[str, bytes]:
        """(media type, bytes) of a manifest or index, which has that digest if one is given."""
        response = await self._get(f"{self._base}/manifests/{version}", {"accept": _ACCEPT})
        try:
            data = await _limited(response, documents.DOCUMENT_BYTES_MAX, what=version)
        finally:
            await response.aclose()
        if digest is not None and content_digest(data) != digest:
            raise BadSource(f"{self._reference.host} answers for {version[:19]} with something else")
        return response.headers.get("content-type", "").split(";")[0].strip(), data

    async def blob(self, digest: Digest, *, size: int) -> AsyncIterator[bytes]:
        """Checked; what is cut off is asked for again from there."""
        async for chunk in checked(self._chunks(digest, size), digest, size_max=size):
            yield chunk

    async def _chunks(self, digest: Digest, size: int) -> AsyncIterator[bytes]:
        url, done = f"{self._base}/blobs/sha256:{digest}", 0
        for attempt in range(ATTEMPTS_MAX):
            response = await self._get(url, {"range": f"bytes={done}-"} if done else {})
            try:
                skip = done if response.status_code == 200 else 0  # it may not know ranges
                async for chunk in response.aiter_raw():
                    fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                    if fresh:
                        done += len(fresh)
                        yield fresh
                return
            except httpx.TransportError as error:
                if attempt == ATTEMPTS_MAX - 1:
                    raise SourceUnavailable(
                        f"{self._reference.host}: {digest[:12]} broke off at {done} of {size}: {error}"
                    ) from error
            finally:
                await response.aclose()

    async def _get(self, url: str, headers: dict[str, str]) -> httpx.Response:
        """An answer of 2xx whose body is yet to be read; logs in once if it has to."""
        response = await self._follow(url, headers)
        if response.status_code == 401:
            challenge = response.headers.get("www-authenticate", "")
            await response.aclose()
            self._authorization = await self._log_in(challenge)
            response = await self._follow(url, headers)
        if response.is_success:
            return response
        await response.aclose()
        raise self._error(response.status_code, url)

    async def _follow(self, url: str, headers: dict[str, str]) -> httpx.Response:
        own = _origin(url)
        for _ in range(REDIRECTS_MAX):
            _refuse_plain(url)
            mine = {"authorization": self._authorization} if self._authorization and _origin(url) == own else {}
            # Compressed on the way it would not be the blob that was asked for.
            response = await self._send("GET", url, headers={**headers, **mine, "accept-encoding": "identity"})
            if response.status_code not in _REDIRECTS:
                return response
            await response.aclose()
            url = urljoin(url, response.headers.get("location", ""))
        raise SourceUnavailable(f"{self._reference.host} redirects again and again")

    async def _send(
        self, method: str, url: str, *, headers: dict[str, str], data: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            return await self._client.send(self._client.build_request(method, url, headers=headers, data=data), stream=True)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise SourceUnavailable(f"{urlsplit(url).netloc}: {error or type(error).__name__}") from error

    async def _log_in(self, challenge: str) -> str:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            if self._credentials is None or not self._credentials.user:
                raise self._error(401, "")
            return self._credentials.basic()
        parameters = dict(_PARAMETER.findall(rest))
        if kind.lower() != "bearer" or "realm" not in parameters:
            raise SourceUnavailable(f"{self._reference.host} wants a login of a kind that is not known here: {challenge[:100]!r}")
        return f"Bearer {await self._token(parameters)}"

    async def _token(self, parameters: dict[str, str]) -> str:
        realm, known = parameters["realm"], self._credentials
        _refuse_plain(realm)
        query = {"scope": parameters.get("scope") or f"repository:{self._reference.name}:pull"}
        if parameters.get("service"):
            query["service"] = parameters["service"]
        if known is not None and known.refresh_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": known.refresh_token, "client_id": "skerry"}
            response = await self._send("POST", realm, headers={}, data=form)
        else:
            headers = {"authorization": known.basic()} if known is not None else {}
            response = await self._send("GET", str(httpx.URL(realm).copy_merge_params(query)), headers=headers)
        try:
            body = await _limited(response, TOKEN_BYTES_MAX, what="token")
        finally:
            await response.aclose()
        if not response.is_success:
            raise self._error(response.status_code, realm)
        token = documents.parse(body, _Token, what="token")
        return token.token or token.access_token

    def _error(self, status: int, url: str) -> Exception:
        host, name = self._reference.host, self._reference.name
        if status in (401, 403):
            whom = (
                "nobody is logged in" if self._credentials is None else f"as {self._credentials.user or 'the token kept for it'}"
            )
            return SourceRefused(f"{host} does not let us read {name} ({whom}); log in: docker login {host}")
        if status == 404:
            return NoSuchSource(f"{host} has no {name}:{self._reference.version}")
        return SourceUnavailable(f"{host}: status {status} for {urlsplit(url).path}")


class RegistrySource:
    """`skerry.ports.imagesources.Source` of one pinned image."""

    def __init__(self, registry: Registry, image: Image, written: dict[Digest, bytes]) -> None:
        self._registry = registry
        self._image = image
        self._written = written
        self._sizes = {layer.digest: layer.size for layer in image.layers}

    @property
    def image(self) -> Image:
        return self._image

    async def blob(self, digest: Digest) -> AsyncIterator[bytes]:
        if digest in self._written:
            yield self._written[digest]
            return
        async for chunk in self._registry.blob(digest, size=self._sizes[digest]):
            yield chunk

    async def aclose(self) -> None:
        await self._registry.aclose()


async def open_registry_source(
    reference: RegistryReference,
    *,
    name: str,
    architecture: str,
    credentials: Credentials | None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> RegistrySource:
    registry = Registry(reference, credentials, transport)
    try:
        manifest = await _manifest(registry, reference, architecture)
        wanted = documents.parse(manifest, Manifest, what="manifest").config
        if wanted.size > documents.DOCUMENT_BYTES_MAX:
            raise BadSource(f"image configuration: more than {documents.DOCUMENT_BYTES_MAX >> 20} MiB")
        config = b"".join([chunk async for chunk in registry.blob(wanted.hex, size=documents.DOCUMENT_BYTES_MAX)])
        image = documents.describe(name, manifest, config, architecture=architecture)
        return RegistrySource(registry, image, {image.manifest: manifest, image.config: config})
    except BaseException:
        await registry.aclose()
        raise


async def _manifest(registry: Registry, reference: RegistryReference, architecture: str) -> bytes:
    version, digest = reference.version, reference.digest
    for _ in range(documents.INDEX_DEPTH_MAX):
        kind, data = await registry.document(version, digest=digest)
        if not documents.is_index(kind, data):
            return data
        digest = documents.choose(documents.parse(data, Index, what="index"), architecture=architecture).hex
        version = f"sha256:{digest}"
    raise BadSource(f"{reference.name}: indexes within indexes")


async def _limited(response: httpx.Response, bytes_max: int, *, what: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for part in response.aiter_raw():
            size += len(part)
            if size > bytes_max:
                raise BadSource(f"{what}: more than {bytes_max >> 20} MiB")
            parts.append(part)
    except httpx.TransportError as error:
        raise SourceUnavailable(f"{what}: {error}") from error
    return b"".join(parts)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _scheme(host: str) -> str:
    return "http" if _is_loopback(host) else "https"


def _is_loopback(netloc: str) -> bool:
    host = urlsplit(f"//{netloc}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.netloc)):
        raise SourceUnavailable(f"{parts.scheme}://{parts.netloc}: only HTTPS is used beyond this machine")
