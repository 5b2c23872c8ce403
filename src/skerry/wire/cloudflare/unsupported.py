"""Products whose endpoints are not there yet, so that clients print a sentence instead of a routing error."""

PRODUCTS: tuple[tuple[str, str], ...] = (
    ("/storage/kv", "Workers KV"),
    ("/d1", "D1"),
    ("/r2", "R2"),
    ("/r2-catalog", "R2"),
    ("/queues", "Queues"),
    ("/vectorize", "Vectorize"),
    ("/hyperdrive", "Hyperdrive"),
    ("/ai", "Workers AI"),
    ("/ai-gateway", "AI Gateway"),
    ("/workflows", "Workflows"),
    ("/containers", "containers"),
    ("/cloudchamber", "containers"),
    ("/pages", "Pages"),
    ("/pipelines", "Pipelines"),
    ("/browser-rendering", "Browser Rendering"),
    ("/secrets_store", "Secrets Store"),
    ("/mtls_certificates", "mTLS certificates"),
    ("/images", "Images"),
    ("/stream", "Stream"),
    ("/connectivity", "VPC services"),
    ("/workers/dispatch", "dispatch namespaces"),
    ("/workers/durable_objects", "Durable Objects"),
    ("/workers/domains", "custom domains"),
    ("/workers/observability", "the observability API"),
)
SCRIPT_PRODUCTS: tuple[tuple[str, str], ...] = (
    ("/tails", "live logs (wrangler tail)"),
    ("/domains/records", "custom domains"),
    ("/routes", "routes"),
    ("/edge-preview", "remote previews"),
    ("/usage-model", "usage models"),
)


def product_of(path: str) -> str | None:
    """The product that a path (also behind a mount) belongs to, if it is one that is not there."""
    _, found, rest = path.partition("/accounts/")
    if not found:
        return "zones" if "/zones/" in path else "the analytics API" if path.endswith("/graphql") else None
    inside = "/" + rest.partition("/")[2]
    for prefix, words in PRODUCTS:
        if inside == prefix or inside.startswith(prefix + "/"):
            return words
    if inside.startswith(("/workers/scripts/", "/workers/services/")):
        return next((words for suffix, words in SCRIPT_PRODUCTS if inside.endswith(suffix) or f"{suffix}/" in inside), None)
    return "previews" if inside.startswith("/workers/workers/") and "/previews" in inside else None
