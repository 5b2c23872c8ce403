"""Whatever is sent to the own API, the answer is JSON with a reason, and never a 5xx."""

import asyncio
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.testing.own import OwnPlatform, make_own_platform

PATHS = ("/v1/plan", "/v1/drain", "/v1/undrain", "/v1/accounts", "/v1/tokens")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
NEARLY_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(max_size=80) | JSON_VALUES for name in ("target", "name", "scope", "account", "expires_ms", "apps", "sites")
    },
)
SEGMENTS = st.text(st.characters(exclude_characters="/?#", exclude_categories=("Cs",)), min_size=1, max_size=40)
QUIET = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


async def call(method: str, path: str, *, content: bytes = b"", token: str | None = None, site: str | None = None) -> None:
    platform: OwnPlatform = await make_own_platform()
    async with platform.client(token) as client:
        query = {} if site is None else {"site": site}
        answer = await client.request(method, path, content=content, params=query)
    assert answer.status_code < 500
    body = json.loads(answer.content)
    if answer.status_code >= 400:
        assert set(body) == {"error"}
        assert body["error"]["code"]
        assert body["error"]["message"]


@QUIET
@given(path=st.sampled_from(PATHS), content=st.binary(max_size=300))
def test_any_bytes_as_a_body(path: str, content: bytes) -> None:
    asyncio.run(call("POST", path, content=content))


@QUIET
@given(path=st.sampled_from(PATHS), value=NEARLY_RIGHT | JSON_VALUES)
def test_any_json_as_a_body(path: str, value: object) -> None:
    asyncio.run(call("POST", path, content=json.dumps(value).encode()))


@QUIET
@given(account=SEGMENTS, app=SEGMENTS, site=st.none() | st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_any_names_in_a_path(account: str, app: str, site: str | None) -> None:
    from urllib.parse import quote

    asyncio.run(call("GET", f"/v1/apps/{quote(account, safe='')}/{quote(app, safe='')}/explain", site=site))


@QUIET
@given(token=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300))
def test_any_token(token: str) -> None:
    asyncio.run(call("GET", "/v1/status", token=token))
