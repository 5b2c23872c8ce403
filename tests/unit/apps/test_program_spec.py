"""What people type for a program, and what the API is told of it."""

from pathlib import Path

import msgspec
import pytest

from skerry.apps.cli_run import name_of
from skerry.apps.client import ClientError
from skerry.apps.programs import words
from skerry.apps.programs.file import WorkerSpec, read_apps
from skerry.apps.programs.spec import ProgramSpec, body_of, scale_of
from skerry.apps.programs.words import BadWord
from skerry.services.intents.programs import ProgramUpload


@pytest.mark.parametrize(
    ("text", "amount"), [("256M", 256), ("1G", 1024), ("1.5GiB", 1536), ("2048K", 2), ("64", 64), (128, 128), ("1t", 1 << 20)]
)
def test_sizes(text: object, amount: int) -> None:
    assert words.mib(text) == amount


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1K", "nan", "1e3", "0.3M", None, True])
def test_no_sizes(text: object) -> None:
    with pytest.raises(BadWord):
        words.mib(text)


@pytest.mark.parametrize(("text", "amount"), [("0.5", 500), (0.25, 250), ("250m", 250), (2, 2000)])
def test_cores(text: object, amount: int) -> None:
    assert words.millicores(text) == amount


@pytest.mark.parametrize("text", ["", "half", "-1", "0", "nan", "inf", "m"])
def test_no_cores(text: object) -> None:
    with pytest.raises(BadWord):
        words.millicores(text)


@pytest.mark.parametrize(("text", "ms"), [("500ms", 500), ("30s", 30_000), ("5m", 300_000), (2, 2000), ("1.5s", 1500)])
def test_times(text: object, ms: int) -> None:
    assert words.milliseconds(text) == ms


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("web.oci.tar", "web"),
        ("./build/My_App.tar", "my-app"),
        ("registry.example/team/shop:1.2", "shop"),
        ("shop@sha256:" + "0" * 64, "shop"),
        ("web.tar#v2", "web"),
        ("___", "app"),
    ],
)
def test_the_name_of_an_app_without_a_name(image: str, name: str) -> None:
    assert name_of(image) == name


@pytest.mark.parametrize(
    ("fields", "new", "scale"),
    [
        ({}, True, {"min_per_site": 0, "min_total": 1}),
        ({}, False, {}),
        ({"cities": 2}, True, {"min_per_site": 0, "min_total": 2, "survive_sites": 1, "allow": None}),
        ({"cities": ("lhr", "cur")}, False, {"allow": ["lhr", "cur"], "min_per_site": 1}),
        ({"min": 3, "max": 9}, True, {"min_per_site": 0, "min_total": 3, "max_total": 9}),
        ({"scale": {"min_total": 4}, "min": 3}, False, {"min_total": 4}),
    ],
)
def test_how_many_and_where(fields: dict[str, object], new: bool, scale: dict[str, object]) -> None:
    assert scale_of(ProgramSpec(image="x", **fields), new=new) == scale


def test_everything_is_told_to_the_api_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("secret file")
    (tmp_path / "skerry.toml").write_text(
        """
        [apps.web]
        image = "web.oci.tar"
        isolation = "gvisor"
        command = ["/bin/web"]
        port = 8080
        cpu = 0.5
        memory = "128M"
        disk = "64M"
        env = { DEBUG = true, LEVEL = 3 }
        secrets = ["API_KEY"]
        files = [{ path = "/run/key", from = "key.pem" }, { path = "/run/token", env = "TOKEN", mode = "440" }]
        health = { http = "/healthz", interval = "2s", failures = 5 }
        network = { allow = ["10.0.0.0/8"], only_allowed = true }
        asleep_after = "1m"
        cities = ["lhr"]
        [apps.hello]
        worker = "site"
        """
    )
    found = read_apps(tmp_path)
    assert found.apps["hello"] == WorkerSpec(worker="site")
    spec = found.apps["web"]
    assert isinstance(spec, ProgramSpec)
    environment = {"API_KEY": "k", "TOKEN": "t"}
    body = body_of(spec, environment=environment, base=found.base, new=True)
    upload = msgspec.convert({**body, "image": "0" * 64}, ProgramUpload)
    assert upload.secrets == {"API_KEY": "k"}
    assert upload.env == {"DEBUG": "true", "LEVEL": "3"}
    assert [(file.path, file.text, file.mode) for file in upload.files] == [
        ("/run/key", "secret file", 0o400),
        ("/run/token", "t", 0o440),
    ]
    assert (upload.cpu_millicores, upload.memory_mib, upload.writable_mib, upload.asleep_after_s) == (500, 128, 64, 60)
    assert upload.health is not None and upload.health.interval_ms == 2000
    assert upload.scale == {"allow": ["lhr"], "min_per_site": 1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"secrets": ("A=b",)}, "give the name alone"),
        ({"secrets": ("NOT_THERE",)}, "no such variable"),
        ({"files": ({"path": "/a", "from": "nowhere"},)}, "No such file"),
        ({"files": ({"path": "/a", "from": "x", "env": "y"},)}, "either"),
        ({"files": ({"path": "/a", "env": "A", "mode": "rwx"},)}, "of the form 400"),
        ({"health": {"http": "/", "tcp": True}}, "one of http"),
        ({"memory": "lots"}, "no size"),
        ({"cities": 0}, "at least 1"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_sent(fields: dict[str, object], said: str, tmp_path: Path) -> None:
    spec = msgspec.convert({"image": "x", **fields}, ProgramSpec)
    with pytest.raises(BadWord, match=said):
        body_of(spec, environment={"A": "a"}, base=tmp_path, new=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"no \[apps.NAME\]"),
        ("[apps", "Expected"),
        ("[app.web]\nimage = 'x'", "unknown key 'app'"),
        ("[apps.web]\nport = 1", "apps.web: .*image"),
        ("[apps.web]\nimage = 'x'\nports = 1", "apps.web: .*ports"),
        ("[apps.web]\nimage = 'x'\nport = []", "apps.web: .*port"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "skerry.toml").write_text(text)
    with pytest.raises(ClientError, match=said):
        read_apps(tmp_path)


@pytest.mark.parametrize(
    ("port", "fields"),
    [
        (8080, {"port": 8080, "protocol": "http"}),
        ("8080", {"port": 8080, "protocol": "http"}),
        ("6379/tcp", {"port": 6379, "protocol": "tcp"}),
    ],
)
def test_a_port_says_what_is_spoken_at_it(port: int | str, fields: dict[str, object]) -> None:
    assert words.port(port) == fields
    body = body_of(ProgramSpec(image="x", port=port, public_port=30_001), environment={}, base=Path(), new=False)
    assert {name: body[name] for name in ("port", "protocol", "public_port")} == {**fields, "public_port": 30_001}


@pytest.mark.parametrize("port", ["", "x", "80/udp", "80/", "-1", "1234567"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(BadWord, match="is no port"):
        words.port(port)
