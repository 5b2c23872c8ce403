"""Answers that say no: `{"error": {"code", "message", "hint"}}`, and how each error of a port becomes one."""

from starlette.responses import Response

from skerry.kit.record import Record, encode
from skerry.ports import blobs as blobs_port
from skerry.ports import operations
from skerry.ports import store as store_port
from skerry.services import accounts
from skerry.services.intents.errors import IntentError
from skerry.services.intents.errors import Refusal as IntentRefusal


class ErrorBody(Record, omit_defaults=False, forbid_unknown_fields=False):
    """`code` is for programs and never changes; `message` and `hint` are for people."""

    code: str
    message: str
    hint: str = ""


class ErrorAnswer(Record, omit_defaults=False, forbid_unknown_fields=False):
    error: ErrorBody


class Refusal(Exception):
    """Raised by a handler: answered with `status` and the envelope."""

    def __init__(self, status: int, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(code=code, message=message, hint=hint)


_BY_TYPE: tuple[tuple[type[Exception], int, str, str], ...] = (
    (operations.NotFound, 404, "not_found", ""),
    (operations.Invalid, 400, "invalid", ""),
    (operations.Conflict, 409, "conflict", "try again"),
    (operations.Unavailable, 503, "unavailable", "try again in a moment"),
    (accounts.Unauthenticated, 401, "unauthenticated", "`skerry token create` makes one"),
    (accounts.Invalid, 400, "invalid", ""),
    (accounts.NameTaken, 409, "name_taken", "choose another name"),
    (accounts.NotFound, 404, "not_found", ""),
    (store_port.Conflict, 409, "conflict", "try again"),
    (store_port.Unavailable, 503, "unavailable", "try again in a moment"),
    (store_port.StoreError, 503, "unavailable", "try again in a moment"),
    (blobs_port.BlobError, 503, "unavailable", "try again in a moment"),
)
_OF_INTENTS: dict[IntentRefusal, tuple[int, str, str]] = {
    IntentRefusal.APP_NOT_FOUND: (404, "not_found", "`skerry apps` lists them"),
    IntentRefusal.TOO_LARGE: (413, "too_large", ""),
    IntentRefusal.PORT_TAKEN: (409, "port_taken", "ask for another one, or for none"),
    IntentRefusal.BUSY: (409, "conflict", "try again"),
    IntentRefusal.UNAVAILABLE: (503, "unavailable", "try again in a moment"),
}
ERROR_TYPES: tuple[type[Exception], ...] = (
    operations.OperationError,
    accounts.AccountsError,
    store_port.StoreError,
    blobs_port.BlobError,
    IntentError,
    Refusal,
)


def refusal_of(error: Exception) -> Refusal:
    """Every error of `ERROR_TYPES` as what the caller is told."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, IntentError):
        status, code, hint = _OF_INTENTS.get(error.refusal, (400, "invalid", ""))
        return Refusal(status, code, error.message, hint=hint)
    for kind, status, code, hint in _BY_TYPE:
        if isinstance(error, kind):
            said = getattr(error, "hint", "") or hint
            text = (
                "the store does not take it now"
                if isinstance(error, store_port.StoreError | blobs_port.BlobError)
                else str(error)
            )
            return Refusal(status, code, text, hint=said)
    return Refusal(500, "internal", "the platform failed to answer", hint="control's log says why")


def answer(refusal: Refusal) -> Response:
    headers = {"cache-control": "no-store"}
    if refusal.status == 401:
        headers["www-authenticate"] = 'Bearer realm="skerry"'
    return Response(
        encode(ErrorAnswer(error=refusal.body)), status_code=refusal.status, media_type="application/json", headers=headers
    )
