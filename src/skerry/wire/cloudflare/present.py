"""Records as Cloudflare's API shows them. Secrets' values are never among it."""

import msgspec

from skerry.core.types.account import Account
from skerry.core.types.app import App, Deployment, SecretBinding, Version
from skerry.services.intents.repository import AppState
from skerry.wire.cloudflare.bindings import shown
from skerry.wire.cloudflare.envelope import timestamp
from skerry.wire.cloudflare.use_cases import Addresses

SECRET_SOURCE = "secret"  # noqa: S105 - of a version that a change of secrets made
USAGE_MODEL = "standard"


def account(record: Account) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "type": "standard",
        "settings": {"enforce_twofactor": False},
        "created_on": timestamp(record.created_ms),
    }


def source_of(user_agent: str) -> str:
    return "wrangler" if user_agent.lower().startswith("wrangler/") else "api"


def recorded(version: Version) -> dict[str, object]:
    """Settings that were kept without being acted on."""
    return msgspec.json.decode(version.recorded, type=dict[str, object]) if version.recorded else {}


def annotations(version: Version) -> dict[str, str]:
    made = {"workers/message": version.message, "workers/tag": version.tag}
    if version.source == SECRET_SOURCE:
        made["workers/triggered_by"] = "secret"
    else:
        made["workers/triggered_by"] = "upload"
    return {name: text for name, text in made.items() if text}


def version(record: Version) -> dict[str, object]:
    settings = recorded(record)
    runtime: dict[str, object] = {
        "compatibility_date": record.compatibility_date,
        "compatibility_flags": record.compatibility_flags,
        "usage_model": USAGE_MODEL,
    }
    if "limits" in settings:
        runtime["limits"] = settings["limits"]
    return {
        "id": record.id,
        "number": record.number,
        "metadata": {
            "author_email": record.author,
            "author_id": "",
            "created_on": timestamp(record.created_ms),
            "modified_on": timestamp(record.created_ms),
            "source": "wrangler" if record.source == SECRET_SOURCE else record.source,
            "hasPreview": False,
            "has_preview": False,
        },
        "annotations": annotations(record),
        "resources": {
            "bindings": [shown(binding) for binding in record.bindings],
            "script": {
                "etag": record.etag,
                "handlers": record.handlers,
                "last_deployed_from": "wrangler" if record.source == SECRET_SOURCE else record.source,
            },
            "script_runtime": runtime,
        },
        "startup_time_ms": record.startup_time_ms,
    }


def deployment(record: Deployment) -> dict[str, object]:
    return {
        "id": record.id,
        "source": "wrangler" if record.source == SECRET_SOURCE else record.source,
        "strategy": "percentage",
        "author_email": record.author,
        "created_on": timestamp(record.created_ms),
        "annotations": {"workers/message": record.message} if record.message else {},
        "versions": [{"version_id": share.version, "percentage": share.percent} for share in record.shares],
    }


def script(app: App, current: Version | None) -> dict[str, object]:
    """The app as a "script"; without `current` (in lists) what only its version knows is left out."""
    made: dict[str, object] = {
        "id": app.name,
        "tag": app.tag,
        "tags": app.tags,
        "created_on": timestamp(app.created_ms),
        "modified_on": timestamp(app.modified_ms),
        "usage_model": USAGE_MODEL,
        "logpush": False,
        "migration_tag": None,
        "available_on_subdomain": app.enabled,
    }
    if current is not None:
        made |= {
            "etag": current.etag,
            "handlers": current.handlers,
            "has_assets": current.assets is not None,
            "has_modules": current.worker is not None and not current.worker.service_worker_syntax,
            "compatibility_date": current.compatibility_date,
            "compatibility_flags": current.compatibility_flags,
            "last_deployed_from": "wrangler" if current.source == SECRET_SOURCE else current.source,
        }
    return made


def uploaded(app: App, made: Version) -> dict[str, object]:
    """The answer to an upload that was deployed; `deployment_id` is, as at Cloudflare, the version's id."""
    return script(app, made) | {
        "startup_time_ms": made.startup_time_ms,
        "deployment_id": made.id,
        "entry_point": made.worker.main_module if made.worker else None,
        "pipeline_hash": None,
        "mutable_pipeline_id": None,
    }


def service(state: AppState) -> dict[str, object]:
    app = state.app
    current = state.deployed or state.latest
    times = {"created_on": timestamp(app.created_ms), "modified_on": timestamp(app.modified_ms)}
    environment = {"environment": "production", **times}
    return {
        "id": app.name,
        **times,
        "default_environment": {**environment, "script": script(app, current)},
        "environments": [environment],
    }


def settings(app: App, current: Version | None) -> dict[str, object]:
    """Of the version that runs, with the app's own."""
    kept = recorded(current) if current else {}
    return {
        "bindings": [shown(binding) for binding in current.bindings] if current else [],
        "compatibility_date": current.compatibility_date if current else "",
        "compatibility_flags": current.compatibility_flags if current else (),
        "annotations": annotations(current) if current else {},
        "placement": kept.get("placement", {}),
        "limits": kept.get("limits", {}),
        **script_settings(app),
    }


def script_settings(app: App) -> dict[str, object]:
    return {
        "usage_model": USAGE_MODEL,
        "tags": app.tags,
        "logpush": False,
        "observability": {"enabled": app.observability},
        "tail_consumers": [],
    }


def worker(app: App, account_record: Account, addresses: Addresses) -> dict[str, object]:
    """The app in the newer `workers/workers` form. Clients print the host name of `subdomain.url`."""
    return {
        "id": app.tag,
        "name": app.name,
        "created_on": timestamp(app.created_ms),
        "updated_on": timestamp(app.modified_ms),
        "tags": app.tags,
        "logpush": False,
        "observability": {"enabled": app.observability},
        "tail_consumers": [],
        "subdomain": {
            "enabled": app.enabled,
            "previews_enabled": False,
            "url": addresses.url(app.name, account_record.name),
        },
        "references": references(),
    }


def references() -> dict[str, object]:
    """Nothing can refer to another Worker yet."""
    return {
        "services": {"incoming": [], "outgoing": [], "pages_function": False},
        "durable_objects": [],
        "dispatch_outbounds": [],
        "domains": [],
        "queues": [],
        "workers": [],
    }


def secrets(record: Version | None) -> list[dict[str, object]]:
    if record is None:
        return []
    return [{"name": b.name, "type": "secret_text"} for b in record.bindings if isinstance(b, SecretBinding)]
