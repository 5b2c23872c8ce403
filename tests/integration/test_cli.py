"""The real `skerry` program against the real own API over a made-up platform."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.testing.images import File, build
from skerry.testing.own import ServedOwn, make_own_platform


@pytest.fixture(scope="module")
def served() -> Iterator[ServedOwn]:
    server = ServedOwn(asyncio.run(make_own_platform()))
    yield server
    server.close()


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKERRY_", "CLOUDFLARE_"))}
    # Wide, so that tables wrap no value that a test looks for.
    everything = {**kept, "COLUMNS": "200", **(env or {})}
    command = [sys.executable, "-m", "skerry.apps.cli", *arguments]
    return subprocess.run(command, env=everything, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def skerry(served: ServedOwn):
    def call(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        found = {"SKERRY_API_URL": served.url, "SKERRY_API_TOKEN": served.platform.admin}
        return run(*arguments, env={**found, **(env or {})})

    return call


def test_status_for_people_and_for_programs(skerry) -> None:
    shown = skerry("status")
    assert shown.returncode == 0
    for word in ("London", "lhr-2", "default/hello", "http://hello.default.localhost:8080", "12 of 1024 MiB", "90 s"):
        assert word in shown.stdout
    status = json.loads(skerry("status", "--json").stdout)
    assert [site["site"] for site in status["sites"]] == ["lhr", "cur"]
    assert status["instances"][0]["since_ms"]


@pytest.mark.parametrize(("command", "key"), [("sites", "sites"), ("nodes", "nodes"), ("apps", "apps")])
def test_lists(skerry, command: str, key: str) -> None:
    assert skerry(command).returncode == 0
    assert json.loads(skerry(command, "--json").stdout)[key]


def test_env_can_be_evaluated_by_a_shell(skerry, served: ServedOwn) -> None:
    script = (
        skerry("env").stdout
        + '\necho "$CLOUDFLARE_API_BASE_URL|$CLOUDFLARE_API_TOKEN|$CLOUDFLARE_ACCOUNT_ID|$WRANGLER_SEND_METRICS"'
    )
    said = subprocess.run(["/bin/sh", "-eu", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert said == f"{served.url}/client/v4|{served.platform.admin}|{served.platform.account.id}|false"
    other = json.loads(skerry("env", "--account", "other", "--json").stdout)
    assert other["CLOUDFLARE_ACCOUNT_ID"] == served.platform.other.id


def test_a_tenants_token_means_its_own_account(skerry, served: ServedOwn) -> None:
    values = json.loads(skerry("env", "--json", env={"SKERRY_API_TOKEN": served.platform.other_token}).stdout)
    assert values["CLOUDFLARE_ACCOUNT_ID"] == served.platform.other.id


def test_explain(skerry) -> None:
    shown = skerry("explain", "hello", "lhr")
    assert shown.returncode == 0
    assert "policy allows it" in shown.stdout
    assert "the site is being drained" in shown.stdout
    assert json.loads(skerry("explain", "hello", "--json").stdout)["generation"] == 3


def test_demand_of_an_app_and_of_all(skerry) -> None:
    shown = skerry("demand", "hello")
    assert shown.returncode == 0, shown.stderr
    for word in ("lhr", "12", "14", "1 running", "where they come in"):
        assert word in shown.stdout
    assert json.loads(skerry("demand", "hello", "--json").stdout)["cities"][0]["expected_rps"] == 14.0
    assert "other/hello" in skerry("demand").stdout
    assert [app["cities"] for app in json.loads(skerry("demand", "--json").stdout)["demand"]] == [[], []]


def test_map_says_where_the_page_is_without_its_token_and_prints_what_it_draws(skerry, served: ServedOwn) -> None:
    shown = skerry("map")
    assert f"{served.url}/map\n" in shown.stdout
    assert served.platform.admin not in shown.stdout
    assert [app["app"] for app in json.loads(skerry("map", "--json").stdout)["apps"]] == ["hello", "hello"]
    assert json.loads(skerry("map", "hello", "--json").stdout)["world"]["mean_ms"] > 0
    assert "there is no app goodbye" in skerry("map", "goodbye", "--json").stderr


def test_drain_and_undrain(skerry) -> None:
    assert "lhr-1 is draining" in skerry("drain", "lhr-1").stdout
    assert json.loads(skerry("undrain", "lhr-1", "--json").stdout)["state"] == "up"


def test_a_scale_is_shown_changed_and_reset(skerry, served: ServedOwn) -> None:
    platform = served.platform
    asyncio.run(platform.apps.deploy(platform.account.id, "hello", platform.upload, source="test", author="test"))
    assert "default" in skerry("scale", "hello").stdout
    changed = skerry("scale", "hello", "--max", "3", "--deny", "cur", "--region-min", "weur=1", "--memory", "64")
    assert changed.returncode == 0, changed.stderr
    assert "skerry explain hello" in changed.stdout
    found = json.loads(skerry("scale", "hello", "--cpu", "50", "--json").stdout)["scale"]
    assert (found["max_total"], found["deny"], found["region_min"]) == (3, ["cur"], [{"region": "weur", "count": 1}])
    assert found["resources"] == {"cpu_millicores": 50, "memory_mib": 64}
    refused = skerry("scale", "hello", "--min", "9")
    assert refused.returncode == 1
    assert "max_total (3) is below min_total (9)" in refused.stderr
    assert skerry("scale", "hello", "--region-min", "weur").returncode == 2
    fields = ("max_total", "deny", "region_min", "resources")
    back = json.loads(skerry("scale", "hello", *(f"--reset={field}" for field in fields), "--json").stdout)
    assert back["set_fields"] == []


def test_a_change_is_looked_at_before_it_is_made(skerry, tmp_path: Path) -> None:
    change = tmp_path / "change.toml"
    change.write_text('[sites.cur]\nstate = "draining"\n')
    shown = skerry("plan", "-f", str(change))
    assert shown.returncode == 0, shown.stderr
    for word in ("hello", "2 → 1 instance", "- cur", "sam: 0 ms → 134 ms", "Nothing was changed"):
        assert word in shown.stdout
    nothing = tmp_path / "nothing.json"
    nothing.write_text("{}")
    assert "Nothing would change" in skerry("plan", "-f", str(nothing)).stdout
    assert json.loads(skerry("plan", "-f", str(change), "--json").stdout)["apps"][0]["lost"] == ["cur"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sites.cur\n", "line 1"),
        ('[sites.cur]\nstate = "gone"\n', "sites"),
        ("[sties.cur]\n", "sties"),
        ("[apps.hello]\nscael = {}\n", "scael"),
        ('[sites.nrt]\nstate = "up"\n', "skerry sites"),
    ],
)
def test_a_bad_change_is_refused_by_its_line_or_field(skerry, tmp_path: Path, text: str, said: str) -> None:
    change = tmp_path / "change.toml"
    change.write_text(text)
    done = skerry("plan", "-f", str(change))
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr


def test_where_apps_run(skerry) -> None:
    shown = skerry("apps", "--where").stdout
    for word in ("default/hello", "other/hello", "Willemstad", "1 running"):
        assert word in shown
    (first, *_) = json.loads(skerry("apps", "--where", "--json").stdout)["apps"]
    assert [(city["site"], city["serving"], city["states"]) for city in first["cities"]] == [
        ("cur", 1, {"running": 1}),
        ("lhr", 1, {"running": 1}),
    ]


def test_accounts_and_tokens_over_their_life(skerry) -> None:
    assert skerry("account", "create", "team-b").returncode == 0
    assert "team-b" in skerry("account", "list").stdout
    made = skerry("token", "create", "ci", "--account", "team-b", "--days", "30")
    secret = made.stdout.strip()
    assert "\n" not in secret
    listed = json.loads(skerry("token", "list", "--account", "team-b", "--json").stdout)["tokens"]
    assert [(token["name"], token["scope"], token["secret"]) for token in listed] == [("ci", "write", None)]
    own = json.loads(skerry("env", "--json", env={"SKERRY_API_TOKEN": secret}).stdout)
    assert own["CLOUDFLARE_API_TOKEN"] == secret
    assert skerry("token", "revoke", listed[0]["token"]).returncode == 0
    refused = skerry("status", env={"SKERRY_API_TOKEN": secret})
    assert refused.returncode == 1
    assert "revoked" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain", "goodbye"), "skerry apps"),
        (("demand", "goodbye"), "skerry apps"),
        (("drain", "nrt"), "skerry nodes"),
        (("drain", "../../v1/accounts"), "skerry nodes"),
        (("explain", ".."), "skerry apps"),
        (("account", "create", "Team A"), "letters"),
        (("env", "--account", "nobody"), "skerry account list"),
        (("token", "revoke", "nonsense"), "no such token"),
    ],
)
def test_what_is_refused_says_what_to_do(skerry, arguments: tuple[str, ...], said: str) -> None:
    done = skerry(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("frobnicate",), ("status", "--no-such"), ("drain",), ("up", "--port", "many"), ("up", "--cities", "xyz:1"),
     ("up", "--port", "99999"),
     ("token", "create", "x", "--days", "0")],
)  # fmt: skip
def test_wrong_usage_has_a_status_of_its_own(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, env={"SKERRY_DATA_DIR": str(tmp_path / "data")})
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_platform_the_way_to_one_is_told(tmp_path: Path) -> None:
    done = run("status", "--data-dir", str(tmp_path))
    assert done.returncode == 3
    assert "skerry up" in done.stderr
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        silent = run("status", env={"SKERRY_API_URL": url, "SKERRY_API_TOKEN": "x"})
    assert silent.returncode == 3
    assert "does not answer" in silent.stderr


@pytest.mark.parametrize(
    "arguments",
    ["--data-dir {} status", "status --data-dir {}", "--data-dir {} wrangler deploy", "wrangler --data-dir {} deploy"],
)
def test_a_named_data_directory_goes_before_the_environments_platform(skerry, tmp_path: Path, arguments: str) -> None:
    done = skerry(*arguments.format(tmp_path).split())
    assert done.returncode == 3
    assert f"no platform runs on {tmp_path}" in done.stderr


def test_down_without_a_platform_is_no_error(tmp_path: Path) -> None:
    assert run("down", "--data-dir", str(tmp_path / "none")).returncode == 0


STAND_IN_NODE = """#!/bin/sh
[ "$1" = --version ] && { echo v99.1.0; exit; }
shift
echo "arguments: $*"
echo "account: $CLOUDFLARE_ACCOUNT_ID base: $CLOUDFLARE_API_BASE_URL token: ${#CLOUDFLARE_API_TOKEN}"
[ "$1" = deploy ] || exit 7
echo '{"type":"wrangler-session","version":1}' > "$WRANGLER_OUTPUT_FILE_PATH"
echo '{"type":"deploy","worker_name":"hello","targets":["https://hello.x.workers.dev"]}' >> "$WRANGLER_OUTPUT_FILE_PATH"
"""


@pytest.fixture
def wrangler_env(tmp_path: Path) -> dict[str, str]:
    """A stand-in for node: the real client has end-to-end tests of its own."""
    node, script = tmp_path / "node", tmp_path / "wrangler.js"
    node.write_text(STAND_IN_NODE)
    node.chmod(0o755)
    script.write_text("")
    return {"SKERRY_NODE": str(node), "SKERRY_WRANGLER": str(script), "SKERRY_ACCOUNT": "other"}


def test_wrangler_gets_its_arguments_untouched_and_the_platform_in_its_environment(
    skerry, served: ServedOwn, wrangler_env
) -> None:
    done = skerry("wrangler", "deploy", "--help", "--json", "-c", "x.toml", env=wrangler_env)
    assert done.returncode == 0
    assert "arguments: deploy --help --json -c x.toml" in done.stdout
    assert f"account: {served.platform.other.id} base: {served.url}/client/v4" in done.stdout


def test_after_a_deploy_the_real_addresses_are_printed(skerry, wrangler_env) -> None:
    done = skerry("wrangler", "deploy", env=wrangler_env)
    assert "hello answers at http://hello.other.localhost:8080" in done.stdout
    assert "--connect-to ::127.0.2.1:8080" in done.stdout


def test_wranglers_failure_is_ours(skerry, wrangler_env) -> None:
    done = skerry("wrangler", "whoami", env=wrangler_env)
    assert done.returncode == 7
    assert "answers at" not in done.stdout


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return build([{"bin/web": File(content=b"\x7fELF", mode=0o755)}], command=("/bin/web",)).save(tmp_path / "web.oci.tar")


def test_an_image_is_sent_once_and_run(skerry, served: ServedOwn, image: Path) -> None:
    first = skerry("run", str(image), "--port", "8080", "--memory", "64M", "--env", "A=1", "--no-wait", "--json")
    assert first.returncode == 0, first.stderr
    version = json.loads(first.stdout)
    assert (version["app"], version["number"], version["isolation"]) == ("web", 1, "container")
    again = skerry("run", str(image), "--isolation", "gvisor", "--no-wait")
    assert "web: version 2 (gvisor)" in again.stdout
    state = asyncio.run(served.platform.apps.state(served.platform.account.id, "web"))
    assert state.latest is not None and state.latest.number == 2
    assert skerry("delete", "web", "--yes").stdout == "web is deleted.\n"


def test_a_secret_is_never_on_a_command_line(skerry, image: Path) -> None:
    refused = skerry("run", str(image), "--secret", "KEY=value", "--no-wait")
    assert refused.returncode == 1
    assert "give the name alone" in refused.stderr
    assert skerry("run", str(image), "--secret", "KEY", "--no-wait", env={"KEY": "hidden"}).returncode == 0
    assert skerry("delete", "web", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nowhere.tar"), "nowhere.tar"),
        (("run", "IMAGE", "--isolation", "chroot"), "isolation"),
        (("run", "IMAGE", "--memory", "4M"), "a container has 8"),
        (("run", "IMAGE", "--name", "No_Name"), "lower-case"),
        (("deploy", "nowhere"), "No such file"),
        (("logs", "nothing"), "there is no app"),
        (("exec", "nothing", "--", "ls"), "there is no app"),
        (("cp", "a", "b"), "APP:/path"),
        (("delete", "nothing", "--yes"), "not exist"),
        (("instances", "nothing"), "there is no app"),
    ],
)
def test_what_cannot_be_done_with_images_is_said(skerry, image: Path, arguments: tuple[str, ...], said: str) -> None:
    words = [str(image) if word == "IMAGE" else word for word in arguments]
    refused = skerry(*words)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
