"""Pure: lines of servers, and the addresses by which this HAProxy reaches itself."""

from skerry.adapters.ingress.haproxy.layout import LOOP, WEIGHT_MAX, Server
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.kit.hashing import stable_id


def server_options(settings: Settings, backend: str) -> str:
    """Of a server line, in the file and at run time alike (a dynamic server inherits nothing)."""
    limits = settings.limits
    often = f"fastinter {limits.breaker_ms}ms downinter {limits.breaker_ms}ms rise 1"
    common = f"{often} observe layer4 error-limit 1 on-error mark-down pool-purge-delay {limits.idle_target_ms_max}ms"
    if backend.startswith("peer"):
        proxy = "send-proxy-v2 " if backend.endswith("tcp") else ""
        return f"{proxy}check inter {limits.peer_check_ms}ms fall 2 {common}"
    return f"check addr {settings.site.peer_address} inter 1h fall 3 {common}"


def server_line(settings: Settings, backend: str, server: Server) -> str:
    return f"{server.name} {server.address} weight {server.weight} {server_options(settings, backend)}"


def loop(settings: Settings, frontend: str, number: int) -> str:
    """A server that leads back into this HAProxy."""
    assert 0 < number < WEIGHT_MAX
    idle = f"pool-purge-delay {settings.limits.idle_target_ms_max}ms"  # a worker that is stopping waits for these as well
    return f"{LOOP}{number} {abstract(settings, frontend)} weight 1 {idle}"


def abstract(settings: Settings, frontend: str) -> str:
    """An abstract unix address: a worker without root reaches it, other network namespaces do not."""
    return f"abns@skerry-{stable_id(settings.run_dir, length=12)}-{frontend}"
