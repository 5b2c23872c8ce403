"""Why a request of a developer is refused. The text is for its author; dialects turn the refusal into their codes."""

from enum import StrEnum


class Refusal(StrEnum):
    APP_NOT_FOUND = "app_not_found"
    VERSION_NOT_FOUND = "version_not_found"
    DEPLOYMENT_NOT_FOUND = "deployment_not_found"
    SECRET_NOT_FOUND = "secret_not_found"  # noqa: S105
    NO_VERSIONS = "no_versions"
    LATEST_NOT_DEPLOYED = "latest_not_deployed"  # a change to what runs, but the newest version does not run
    NAME_INVALID = "name_invalid"
    INVALID = "invalid"
    BINDING_NAME_TAKEN = "binding_name_taken"
    INHERIT_MISSING = "inherit_missing"
    SCRIPT_TOO_LARGE = "script_too_large"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    PORT_TAKEN = "port_taken"  # by another app
    STARTUP = "startup"  # the engine refused the code; the text is the engine's
    ASSETS_TOKEN = "assets_token"  # noqa: S105
    ASSETS_INCOMPLETE = "assets_incomplete"
    BUSY = "busy"  # others changed the app at every attempt; try again
    UNAVAILABLE = "unavailable"  # a part of the platform does not answer; try again


class IntentError(Exception):
    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
