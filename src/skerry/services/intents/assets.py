"""Static files, as Cloudflare's clients send them: a manifest first, then only what is not there yet.

    open(manifest) → session token and buckets of hashes → receive(files) … → finished → redeem(token) → Assets

The manifest's hashes are the client's own; they name files inside one app only. Which content each stands for is in the
session, and for the next deploy in the app's index, so that unchanged files are not sent again.
A token is shaped as a JWT because clients read its expiry; its last part is a random secret of which the store
holds the SHA-256.
"""

import base64
import hashlib
import hmac
import re
from typing import final

import msgspec

from skerry.core.types.app import AssetFile, Assets
from skerry.core.types.ids import AccountId, AppName, Digest
from skerry.kit import record
from skerry.kit.hashing import content_digest
from skerry.kit.record import Record
from skerry.ports.blobs import Blobs
from skerry.ports.blobs import NotFound as BlobNotFound
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, PAGE_MAX, Delete, Op, Store, entries_under
from skerry.services.ids import Ids, RandomBytes
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.upload import AssetsWanted

SESSIONS = "asset-sessions/"
INDEXES = "asset-indexes/"
HASH = re.compile(r"[0-9a-f]{32}\Z")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
TOKEN_CHARS_MAX = 2048
HTML_HANDLING = frozenset(("auto-trailing-slash", "force-trailing-slash", "drop-trailing-slash", "none"))
NOT_FOUND_HANDLING = frozenset(("none", "404-page", "single-page-application"))


class ManifestFile(Record):
    """`hash` is the client's name of the content (32 hex digits), `size` in bytes."""

    path: str
    hash: str
    size: int


Manifest = tuple[ManifestFile, ...]


class AssetUpload(Record):
    """One file as it arrived."""

    hash: str
    content: bytes
    content_type: str | None = None


class UploadSession(Record):
    """`buckets`: groups of hashes to send, one request each; none: `token` is ready to be redeemed."""

    token: str
    buckets: tuple[tuple[str, ...], ...]


class Known(Record):
    """The content that a client's hash stands for."""

    digest: Digest
    size: int
    content_type: str | None = None


class Wanted(Record):
    """The blob of a session: all files, and what was there at its start."""

    files: Manifest
    known: dict[str, Known]


class Session(Record):
    id: str
    account: AccountId
    app: AppName
    secret_sha256: str
    expires_ms: int
    wanted: Digest


class Batch(Record):
    """What one request of a session brought."""

    files: dict[str, Known]


class Claims(msgspec.Struct, frozen=True):
    """The middle part of a token."""

    session: str
    account: str
    exp: int


@final
class AssetSessions:
    def __init__(self, store: Store, blobs: Blobs, clock: Clock, random_bytes: RandomBytes) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._ids = Ids(random_bytes)

    async def open(self, account: AccountId, app: AppName, manifest: Manifest) -> UploadSession:
        """Raises `IntentError`."""
        check_manifest(manifest)
        await self._expire(account)
        known = await self._known(account, app, {file.hash for file in manifest})
        wanted = Wanted(files=manifest, known=known)
        secret = self._ids.secret()
        session = Session(
            id=self._ids.hex32(),
            account=account,
            app=app,
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            expires_ms=self._clock.now_ms() + limits.ASSET_SESSION_MS,
            wanted=await self._blobs.put(record.encode(wanted)),
        )
        await self._store.put(_session_key(account, session.id), record.encode(session))
        return UploadSession(token=_token(session, secret), buckets=buckets(manifest, known))

    async def verify(self, account: AccountId, token: str) -> None:
        """Raises `IntentError` unless the token is of an open session; asked before a body is read."""
        await self._session(account, token)

    async def receive(self, account: AccountId, token: str, files: tuple[AssetUpload, ...]) -> str | None:
        """Keep the files; the token for `redeem` once all are there, else None. Sending a file twice is no error."""
        session = await self._session(account, token)
        wanted = await self._wanted(session)
        sizes = {file.hash: file.size for file in wanted.files}
        for file in files:
            if sizes.get(file.hash) != len(file.content):
                raise IntentError(
                    Refusal.INVALID, f"The file {file.hash[:40]!r} is not in the manifest, or has not the size given there."
                )
        batch = {
            file.hash: Known(
                digest=await self._blobs.put(file.content), size=len(file.content), content_type=_content_type(file.content_type)
            )
            for file in files
        }
        if batch:
            name = content_digest("".join(sorted(batch)).encode())[:32]
            await self._store.put(f"{_batches(session)}{name}", record.encode(Batch(files=batch)))
        held = await self._held(session, wanted)
        return token if sizes.keys() <= held.keys() else None

    async def redeem(self, account: AccountId, app: AppName, wanted_assets: AssetsWanted) -> Assets:
        """The finished session's files as a version's assets; may be repeated. Raises `IntentError`."""
        check_config(wanted_assets)
        session = await self._session(account, wanted_assets.token or "")
        if session.app != app:
            raise _bad_token()
        wanted = await self._wanted(session)
        held = await self._held(session, wanted)
        lacking = sum(1 for file in wanted.files if file.hash not in held)
        if lacking:
            raise IntentError(Refusal.ASSETS_INCOMPLETE, f"{lacking} of the assets have not been uploaded yet.")
        files = tuple(
            AssetFile(path=f.path, digest=held[f.hash].digest, size=f.size, content_type=held[f.hash].content_type)
            for f in sorted(wanted.files, key=lambda file: file.path)
        )
        index = await self._blobs.put(record.encode(held))
        await self._store.put(_index_key(account, app), index.encode())
        return Assets(
            manifest=await self._blobs.put(record.encode(files)),
            file_count=len(files),
            total_bytes=sum(file.size for file in files),
            html_handling=wanted_assets.html_handling,
            not_found_handling=wanted_assets.not_found_handling,
            run_worker_first=wanted_assets.run_worker_first,
            headers=wanted_assets.headers,
            redirects=wanted_assets.redirects,
        )

    async def _known(self, account: AccountId, app: AppName, hashes: set[str]) -> dict[str, Known]:
        """What the app's last upload left, if the blobs are still there."""
        entry = await self._store.get(_index_key(account, app))
        if entry is None:
            return {}
        try:
            index = record.decode(await self._blobs.get(Digest(entry.value.decode())), dict[str, Known])
        except BlobNotFound:
            return {}
        known = {name: file for name, file in index.items() if name in hashes}
        missing = await self._blobs.missing(frozenset(file.digest for file in known.values()))
        return {name: file for name, file in known.items() if file.digest not in missing}

    async def _held(self, session: Session, wanted: Wanted) -> dict[str, Known]:
        held = dict(wanted.known)
        async for entry in entries_under(self._store, _batches(session)):
            held.update(record.decode(entry.value, Batch).files)
        return held

    async def _wanted(self, session: Session) -> Wanted:
        return record.decode(await self._blobs.get(session.wanted), Wanted)

    async def _session(self, account: AccountId, token: str) -> Session:
        claims, secret = _read_token(token)
        entry = await self._store.get(_session_key(account, claims.session)) if HASH.match(claims.session) else None
        if entry is None:
            raise _bad_token()
        session = record.decode(entry.value, Session)
        given = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(given, session.secret_sha256) or session.expires_ms <= self._clock.now_ms():
            raise _bad_token()
        return session

    async def _expire(self, account: AccountId) -> None:
        """Remove what is left of sessions that ended; raises `IntentError` when too many are open."""
        page = await self._store.range(f"{SESSIONS}{account}/", limit=limits.ASSET_SESSIONS_MAX)
        now_ms = self._clock.now_ms()
        sessions = [record.decode(entry.value, Session) for entry in page.entries]
        for session in sessions:
            if session.expires_ms <= now_ms:
                await self._forget(session)
        if len(sessions) >= limits.ASSET_SESSIONS_MAX and all(session.expires_ms > now_ms for session in sessions):
            raise IntentError(Refusal.TOO_MANY, "Too many asset uploads are open; they end by themselves within an hour.")

    async def _forget(self, session: Session) -> None:
        while True:
            page = await self._store.range(_batches(session), limit=min(PAGE_MAX, OPS_MAX - 1))
            ops = [Delete(key=entry.key) for entry in page.entries]
            if not page.more:
                ops.append(Delete(key=_session_key(session.account, session.id)))
            await self._store.transact([], ops)
            if not page.more:
                return

    def forgetting(self, account: AccountId, app: AppName) -> Op:
        """What has to be written when the app is deleted."""
        return Delete(key=_index_key(account, app))


async def asset_indexes(store: Store) -> list[Digest]:
    """The blob of each app's index; what these name is kept by versions, or sent again."""
    return [Digest(entry.value.decode()) async for entry in entries_under(store, INDEXES)]


def check_manifest(manifest: Manifest) -> None:
    """Raises `IntentError`."""
    if len(manifest) > limits.ASSET_FILES_MAX:
        raise IntentError(
            Refusal.TOO_MANY, f"A Worker has at most {limits.ASSET_FILES_MAX:,} assets; the manifest has {len(manifest):,}."
        )
    sizes: dict[str, int] = {}
    paths: set[str] = set()
    for file in manifest:
        check_path(file.path)
        if file.path in paths:
            raise IntentError(Refusal.INVALID, f"The asset {file.path[:100]!r} is there twice.")
        paths.add(file.path)
        if not HASH.match(file.hash):
            raise IntentError(Refusal.INVALID, f"The hash of {file.path[:100]!r} is not 32 lower-case hex digits.")
        if not 0 <= file.size <= limits.ASSET_BYTES_MAX:
            raise IntentError(
                Refusal.TOO_LARGE,
                f"The asset {file.path[:100]!r} has {file.size:,} bytes; at most {limits.ASSET_BYTES_MAX:,} may be.",
            )
        if sizes.setdefault(file.hash, file.size) != file.size:
            raise IntentError(Refusal.INVALID, f"The hash {file.hash} is there with two sizes.")


def check_path(path: str) -> None:
    """Absolute, normal, printable; raises `IntentError`. Percent signs are part of the name."""
    if not path.startswith("/") or len(path.encode("utf-8", "surrogatepass")) > limits.ASSET_PATH_BYTES_MAX:
        raise IntentError(Refusal.INVALID, f"The asset path {path[:100]!r} does not begin with a slash, or is too long.")
    if CONTROL_CHARACTERS.search(path) or "\\" in path or any("\ud800" <= char <= "\udfff" for char in path):
        raise IntentError(Refusal.INVALID, f"The asset path {path[:100]!r} has characters that are not allowed.")
    segments = path[1:].split("/")
    if any(segment in ("", ".", "..") or len(segment.encode()) > 255 for segment in segments):
        raise IntentError(
            Refusal.INVALID, f"The asset path {path[:100]!r} is not normal: empty, . and .. segments are not allowed."
        )


def check_config(wanted: AssetsWanted) -> None:
    """Raises `IntentError`."""
    if wanted.html_handling not in HTML_HANDLING:
        raise IntentError(Refusal.INVALID, f"html_handling is one of {', '.join(sorted(HTML_HANDLING))}.")
    if wanted.not_found_handling not in NOT_FOUND_HANDLING:
        raise IntentError(Refusal.INVALID, f"not_found_handling is one of {', '.join(sorted(NOT_FOUND_HANDLING))}.")
    if len(wanted.headers.encode()) > limits.HEADERS_FILE_BYTES_MAX:
        raise IntentError(Refusal.TOO_LARGE, f"_headers is larger than {limits.HEADERS_FILE_BYTES_MAX:,} bytes.")
    if len(wanted.redirects.encode()) > limits.REDIRECTS_FILE_BYTES_MAX:
        raise IntentError(Refusal.TOO_LARGE, f"_redirects is larger than {limits.REDIRECTS_FILE_BYTES_MAX:,} bytes.")
    if isinstance(wanted.run_worker_first, tuple):
        check_rules(wanted.run_worker_first)


def check_rules(rules: tuple[str, ...]) -> None:
    """The patterns of `run_worker_first`: `/…` or `!/…`; raises `IntentError`."""
    if len(rules) > limits.WORKER_FIRST_RULES_MAX:
        raise IntentError(Refusal.TOO_MANY, f"run_worker_first has at most {limits.WORKER_FIRST_RULES_MAX} rules.")
    for rule in rules:
        if len(rule) > limits.WORKER_FIRST_RULE_CHARS_MAX or not rule.startswith(("/", "!/")) or CONTROL_CHARACTERS.search(rule):
            raise IntentError(
                Refusal.INVALID,
                f"The run_worker_first rule {rule[:60]!r} does not begin with / or !/, or has more than "
                f"{limits.WORKER_FIRST_RULE_CHARS_MAX} characters.",
            )
    if rules and all(rule.startswith("!") for rule in rules):
        raise IntentError(Refusal.INVALID, "run_worker_first needs at least one rule that does not begin with !.")


def buckets(manifest: Manifest, known: dict[str, Known]) -> tuple[tuple[str, ...], ...]:
    """Hashes to send, grouped into requests of bounded size."""
    sizes = {file.hash: file.size for file in manifest if file.hash not in known}
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    filled = 0
    for name in sorted(sizes):
        if group and (filled + sizes[name] > limits.ASSET_BUCKET_BYTES or len(group) >= limits.ASSET_BUCKET_FILES):
            groups.append(tuple(group))
            group, filled = [], 0
        group.append(name)
        filled += sizes[name]
    if group:
        groups.append(tuple(group))
    return tuple(groups)


def _content_type(text: str | None) -> str | None:
    """None for none; a value that could not stand in a header is none."""
    if not text or text == "application/null" or len(text) > limits.CONTENT_TYPE_CHARS_MAX:
        return None
    return text if text.isascii() and text.isprintable() else None


def _session_key(account: AccountId, session_id: str) -> str:
    return f"{SESSIONS}{account}/{session_id}"


def _batches(session: Session) -> str:
    return f"asset-batches/{session.account}/{session.id}/"


def _index_key(account: AccountId, app: AppName) -> str:
    return f"{INDEXES}{account}/{app}"


def _token(session: Session, secret: str) -> str:
    claims = Claims(session=session.id, account=session.account, exp=session.expires_ms // 1000)
    header = _base64(b'{"typ":"JWT","alg":"none"}')
    return f"{header}.{_base64(msgspec.json.encode(claims))}.{secret}"


def _read_token(token: str) -> tuple[Claims, str]:
    """Raises `IntentError`."""
    parts = token.split(".")
    if len(token) > TOKEN_CHARS_MAX or len(parts) != 3 or not token.isascii():
        raise _bad_token()
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=Claims)
    except (ValueError, msgspec.DecodeError, RecursionError):
        raise _bad_token() from None
    return claims, parts[2]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bad_token() -> IntentError:
    return IntentError(Refusal.ASSETS_TOKEN, "The asset upload token is not valid, has expired, or belongs to another Worker.")
