"""Refusals in Cloudflare's words: an HTTP status, a code that clients know, and a message for people."""

from collections.abc import Mapping

from skerry.services.intents.errors import IntentError, Refusal

# Codes of Cloudflare's API, as its clients know them.
AUTHENTICATION = 10000  # also for a known token that may not do this
INVALID_TOKEN = 1000  # of /user/tokens/verify alone
MISSING_CREDENTIALS = 9106
INVALID_HEADERS = 6003
MALFORMED_BODY = 6007
BAD_REQUEST = 10001
NO_ROUTE = 7003
NO_ROUTE_ALSO = 7000
METHOD_NOT_ALLOWED = 10405
INTERNAL = 10013
INVALID_CONTENT = 10021
SCRIPT_TOO_LARGE = 10027
BODY_TOO_LARGE = 10413
TIMED_OUT = 10408
ASSETS_TOKEN = 10058
SERVICE_NOT_FOUND = 10090

RETRY_AFTER_S = "2"


class ApiError(Exception):
    """`also`: more (code, message) pairs behind the first."""

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        also: tuple[tuple[int, str], ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.also = also
        self.headers = dict(headers or {})


REFUSALS: dict[Refusal, tuple[int, int]] = {
    Refusal.APP_NOT_FOUND: (404, 10007),
    Refusal.VERSION_NOT_FOUND: (404, 10007),
    Refusal.DEPLOYMENT_NOT_FOUND: (404, 10007),
    Refusal.SECRET_NOT_FOUND: (404, 10056),
    Refusal.NO_VERSIONS: (400, 10222),
    Refusal.LATEST_NOT_DEPLOYED: (400, 10215),
    Refusal.NAME_INVALID: (400, 10016),
    Refusal.INVALID: (400, INVALID_CONTENT),
    Refusal.BINDING_NAME_TAKEN: (400, 10053),
    Refusal.INHERIT_MISSING: (400, 10057),
    Refusal.SCRIPT_TOO_LARGE: (413, SCRIPT_TOO_LARGE),
    Refusal.TOO_LARGE: (413, BODY_TOO_LARGE),
    Refusal.TOO_MANY: (400, 10037),
    Refusal.PORT_TAKEN: (409, INVALID_CONTENT),
    Refusal.STARTUP: (400, INVALID_CONTENT),
    Refusal.ASSETS_TOKEN: (401, ASSETS_TOKEN),
    Refusal.ASSETS_INCOMPLETE: (400, INVALID_CONTENT),
    Refusal.BUSY: (409, 10034),
    Refusal.UNAVAILABLE: (503, INTERNAL),
}


def from_intent(error: IntentError) -> ApiError:
    status, code = REFUSALS[error.refusal]
    return ApiError(status, code, error.message)


def unavailable() -> ApiError:
    return ApiError(503, INTERNAL, "The platform cannot do this right now; try again.", headers={"Retry-After": RETRY_AFTER_S})


def no_route(path: str) -> ApiError:
    return ApiError(
        404,
        NO_ROUTE,
        f"Could not route to {path[:200].encode(errors='replace').decode()}, perhaps your object identifier is invalid?",
        also=((NO_ROUTE_ALSO, "No route for that URI"),),
    )
