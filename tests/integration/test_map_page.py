"""The world map in a real browser, over a made-up platform."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from skerry.adapters.worlds import load_catalogue
from skerry.testing.chromium import Chromium, Page, find_chromium
from skerry.testing.own import OwnPlatform, ServedOwn, make_own_platform

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (Debian: package chromium-headless-shell)"),
]
THREE = {"lhr": 3, "cur": 3, "sin": 2}
Serve = Callable[[OwnPlatform], ServedOwn]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[ServedOwn] = []

    def begin(platform: OwnPlatform) -> ServedOwn:
        started.append(ServedOwn(platform))
        return started[-1]

    yield begin
    for served in started:
        served.close()


@pytest.fixture
def three() -> OwnPlatform:
    return asyncio.run(make_own_platform(THREE))


def enter(page: Page, token: str) -> None:
    page.wait("document.activeElement.id === 'token'")
    page.type(token)
    page.press("Enter")


def opened(browser: Chromium, served: ServedOwn, *, width: int = 1280, height: int = 720, touch: bool = False) -> Page:
    page = browser.page(f"{served.url}/map", width=width, height=height, touch=touch)
    enter(page, served.platform.admin)
    page.wait("!document.getElementById('shown').hidden")
    return page


def choose(page: Page, what: str, value: str) -> None:
    page.value(f"{{const of = document.getElementById({what!r}); of.value = {value!r}; of.dispatchEvent(new Event('change'))}}")


def text(page: Page, what: str) -> str:
    return page.value(f"document.getElementById({what!r}).innerText")


def test_a_token_is_asked_once_kept_in_its_tab_and_never_in_an_address(
    browser: Chromium, serve: Serve, three: OwnPlatform
) -> None:
    served = serve(three)
    page = browser.page(f"{served.url}/map")
    enter(page, "wrong")
    page.wait("document.getElementById('refused').textContent.includes('unknown, revoked or expired')")
    enter(page, three.admin)
    page.wait("!document.getElementById('shown').hidden")
    page.call("Page.reload")
    page.wait("document.getElementById('summary')?.textContent.startsWith('3 of 3 cities up')")
    assert [address for address in page.requested() if three.admin in address] == []
    assert page.value("localStorage.length + document.cookie.length") == 0
    page.value("document.getElementById('leave').click()")
    assert page.value("sessionStorage.length") == 0
    assert page.value("document.getElementById('shown').hidden")


def test_an_app_shows_its_cities_its_users_and_on_click_its_reasons(browser: Chromium, serve: Serve, three: OwnPlatform) -> None:
    page = opened(browser, serve(three))
    choose(page, "app", "default/hello")
    page.wait("document.querySelectorAll('#metros path').length > 300")
    assert page.value("document.querySelectorAll('#sites .chosen').length") == len(THREE)
    assert "3 of 3 serve, in 3 cities" in text(page, "of-app")
    assert "South America" in text(page, "of-app")
    page.wait("document.querySelector('#sites path').hasAttribute('transform')")
    spot = page.value(
        "(() => {const box = document.querySelector('#sites path').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]})()"
    )
    page.click(*spot)
    page.wait("document.getElementById('of-site').innerText.includes('policy allows it')")
    assert text(page, "of-site").startswith("London (lhr)")
    assert page.value("document.getElementById('site').value") == "lhr"


def test_what_changes_is_seen_without_a_reload(browser: Chromium, serve: Serve, three: OwnPlatform) -> None:
    page = opened(browser, serve(three))
    assert "3 of 3 cities up" in text(page, "summary")
    three.operations.states["sin"] = "down"
    page.wait("document.querySelectorAll('#sites .down').length === 1")
    assert "Singapore (sin): does not answer" in text(page, "of-site")
    assert "2 of 3 cities up" in text(page, "summary")
    three.operations.raises = OSError("the store is away")
    page.wait("document.getElementById('news').className === 'bad'")
    assert "what you see is old" in text(page, "news")
    three.operations.raises = None


def test_a_revoked_token_is_asked_for_again(browser: Chromium, serve: Serve, three: OwnPlatform) -> None:
    made = asyncio.run(three.accounts.create_token("map", "read"))
    served = serve(three)
    page = browser.page(f"{served.url}/map")
    enter(page, made.secret)
    page.wait("!document.getElementById('shown').hidden")
    asyncio.run(three.accounts.revoke_token(made.token.id))
    page.wait("!document.getElementById('ask').hidden")
    assert "unknown, revoked or expired" in text(page, "refused")
    assert page.value("sessionStorage.length") == 0


def test_names_are_text_whatever_is_in_them(browser: Chromium, serve: Serve) -> None:
    hostile = "<img src=x onerror=document.title=1>"
    page = opened(browser, serve(asyncio.run(make_own_platform(THREE, app=hostile))))
    choose(page, "app", f"default/{hostile}")
    page.wait("document.getElementById('of-app').innerText.includes('onerror')")
    choose(page, "site", "lhr")
    page.wait("document.getElementById('of-site').innerText.includes('there is no app')")
    assert page.value("document.querySelectorAll('img, script:not(:last-of-type), iframe').length") == 0
    assert page.value("document.title") == "Skerry: map"


def test_340_cities_are_shown_and_moved_through_by_keyboard(browser: Chromium, serve: Serve) -> None:
    codes = sorted(load_catalogue().cities)
    served = serve(asyncio.run(make_own_platform(dict.fromkeys(codes, 3))))
    served.platform.operations.states["nrt"] = "down"
    page = opened(browser, served)
    assert page.value("document.querySelectorAll('#sites path').length") == len(codes)
    assert page.value("document.querySelectorAll('#site option').length") == len(codes) + 1
    choose(page, "app", "default/hello")
    page.wait("document.querySelectorAll('#metros path').length > 300")
    page.value("document.getElementById('map').focus()")
    widths = []
    for key in ("+", "+", "0"):
        before = page.value("document.getElementById('map').getAttribute('viewBox')")
        page.value(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}}))")
        page.wait(f"document.getElementById('map').getAttribute('viewBox') !== {before!r}")
        widths.append(page.value("document.getElementById('map').viewBox.baseVal.width"))
    assert widths[0] > widths[1]
    assert widths[2] == 360
    assert page.complaints() == []
    assert {address for address in page.requested() if not address.startswith((served.url, "data:"))} == set()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    browser: Chromium, serve: Serve, three: OwnPlatform, width: int
) -> None:
    page = opened(browser, serve(three), width=width, height=700, touch=True)
    choose(page, "app", "default/hello")
    page.wait("document.querySelectorAll('#metros path').length > 300")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.getElementById('map').getBoundingClientRect().height") >= 200


def test_every_control_has_a_name(browser: Chromium, serve: Serve, three: OwnPlatform) -> None:
    page = opened(browser, serve(three))
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "combobox", "textbox")]
    assert len(controls) >= 5
    assert [node for node in controls if not node["name"]["value"]] == []
