"""Error pages: short HTML that also reads well in a terminal, or JSON for who asks for it, with the ray's id."""

from skerry.kit.record import Record

HTML = "text/html; charset=utf-8"
JSON = "application/json"
MARK = "x-skerry-error"  # on answers of our own, so that no app's answer is taken for one; users never see it


class Page(Record):
    """`code` is for programs. The texts must not hold quotes, commas, brackets or percent signs: see `_either`."""

    status: int
    code: str
    title: str
    text: str


UNKNOWN_HOST = Page(status=404, code="unknown_host", title="Unknown host", text="No app has this name here.")
NO_COPY = Page(
    status=503, code="no_healthy_copy", title="No healthy copy", text="The app is known but no copy of it can answer now."
)
BROKEN = Page(status=502, code="no_answer", title="No answer", text="The app was asked more than once and broke off each time.")
NO_COPY_HERE = Page(status=425, code="no_healthy_copy", title=NO_COPY.title, text=NO_COPY.text)
BUSY = Page(
    status=503,
    code="app_busy",
    title="Too many requests at once",
    text="The app has as many requests as it may have. Try again soon.",
)
TOO_LARGE = Page(status=413, code="body_too_large", title="Body too large", text="The body is larger than this platform takes.")

# Of what is no HTTP at all, or has too large headers, HAProxy says so in a page of its own that cannot be changed.
_OWN = (
    Page(status=400, code="bad_request", title="Bad request", text="The request is malformed."),
    Page(status=403, code="forbidden", title="Forbidden", text="This request is not allowed."),
    Page(status=429, code="too_many_requests", title="Too many requests", text="Try again later."),
    Page(status=500, code="internal", title="Internal error", text="The ingress failed. It is not the fault of the app."),
    Page(status=502, code="bad_gateway", title="Bad gateway", text="The app broke off or gave an answer that is not HTTP."),
    NO_COPY,
    Page(status=504, code="timed_out", title="Timed out", text="The app did not answer in time."),
)
_RAY = "%[var(txn.ray)]"


def http_errors() -> list[str]:
    """`http-error` lines for a defaults section: what HAProxy answers by itself once it knows the request."""
    return [
        f"http-error status {page.status} content-type {_quoted(HTML)} lf-string {_either(page)} {_mark(page)}" for page in _OWN
    ]


def returns(page: Page, condition: str) -> list[str]:
    """`http-request return` lines, for both kinds of reader. `condition` as after `if`."""
    head = f"http-request return status {page.status} content-type"
    return [
        f"{head} {JSON} lf-string {_one(_json(page))} {_mark(page)} if {condition} {{ var(txn.json) -m bool }}",
        f"{head} {_quoted(HTML)} lf-string {_one(_html(page))} {_mark(page)} if {condition}",
    ]


def _mark(page: Page) -> str:
    return f"hdr {MARK} {page.code} hdr cache-control no-store"


def _html(page: Page) -> tuple[tuple[str, ...], str]:
    """Lines up to the ray's id, and the rest of the last one. No newlines inside: HAProxy would encode them."""
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{page.status} {page.title}</title>',
        f"<h1>{page.status} {page.title}</h1>",
        f"<p>{page.text}</p>",
        "<p>ray ",
    )
    return head, "</p>"


def _json(page: Page) -> tuple[tuple[str, ...], str]:
    """As `_html`, with as many lines."""
    head = ('{"error":{', f'"status":{page.status},"code":"{page.code}",', f'"message":"{page.text}",', '"ray":"')
    return head, '"}}'


def _one(lines: tuple[tuple[str, ...], str]) -> str:
    head, tail = lines
    return _word((*head[:-1], f"{head[-1]}{_RAY}{tail}"))


def _either(page: Page) -> str:
    """Both in one log-format, line by line: HAProxy's own errors cannot choose by a condition."""
    json_head, json_tail = _json(page)
    html_head, html_tail = _html(page)
    lines = [_iif(*pair) for pair in zip(json_head, html_head, strict=True)]
    return _word((*lines[:-1], f"{lines[-1]}{_RAY}{_iif(json_tail, html_tail)}"))


def _iif(yes: str, no: str) -> str:
    return f"%[var(txn.json),iif({_quoted(yes)},{_quoted(no)})]"


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


def _word(lines: tuple[str, ...]) -> str:
    """One word of the configuration: nothing is special in single quotes, so newlines stand between them."""
    return "".join(f"'{line}'\\n" for line in lines)
