"""What a deployer is told about a version that does not start, by the real engine."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd.checker import WorkerdChecker
from skerry.adapters.runtime.workerd.settings import Places
from skerry.core.types.app import JsonBinding, Limits, TextBinding, Version
from skerry.ports.runtime import StartupError
from skerry.testing.workers import HELLO, WorkerShop

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]

LIMITED = find_tree("skerry-probe")[0] is not None


@pytest.fixture
def shop() -> WorkerShop:
    return WorkerShop()


@pytest.fixture
async def checker(tmp_path: Path, shop: WorkerShop) -> AsyncIterator[WorkerdChecker]:
    run = Path(tempfile.mkdtemp(prefix="sk"))
    async with WorkerdChecker(data_dir=tmp_path / "checks", run_dir=run, fetch_blob=shop.fetch) as checker:
        yield checker
    places = Places(tmp_path / "checks", run)
    assert detached.find_tagged(places.tag) == ()
    tree, _ = find_tree(f"skerry-{places.tag}")
    assert tree is None or tree.names() == ()
    assert not run.exists()
    shutil.rmtree(run, ignore_errors=True)


async def refused(checker: WorkerdChecker, version: Version) -> str:
    with pytest.raises(StartupError) as caught:
        await checker.check(version)
    return str(caught.value)


async def test_a_good_version_tells_its_handlers_and_exports(checker: WorkerdChecker, shop: WorkerShop) -> None:
    source = "export default { fetch() {}, scheduled() {}, helper() {} };\nexport class Room {}\n"
    checked = await checker.check(shop.instance("a", source).version)
    assert checked.startup_time_ms >= 1
    assert checked.handlers == ("fetch", "scheduled")
    assert set(checked.exports) == {"default", "Room"}


async def test_a_class_as_default_export(checker: WorkerdChecker, shop: WorkerShop) -> None:
    source = (
        "import {WorkerEntrypoint} from 'cloudflare:workers';\nexport default class extends WorkerEntrypoint { async fetch() {} }"
    )
    checked = await checker.check(shop.instance("a", source).version)
    assert checked.handlers == ("fetch",)


async def test_service_worker_syntax(checker: WorkerdChecker, shop: WorkerShop) -> None:
    source = "addEventListener('fetch', event => event.respondWith(new Response('x')));"
    checked = await checker.check(shop.instance("a", source, service_worker_syntax=True).version)
    assert checked.handlers == ("fetch",)


async def test_modules_bindings_and_slow_start(checker: WorkerdChecker, shop: WorkerShop) -> None:
    modules = (shop.module("lib/text.txt", "hi", "text"), shop.module("./data.bin", b"\0\1", "data"))
    bindings = (TextBinding(name="A", text="x"), JsonBinding(name="B", json='{"a":1}'))
    source = "import t from './lib/text.txt';\nimport d from './data.bin';\n" + HELLO
    checked = await checker.check(shop.instance("a", source, modules=modules, bindings=bindings).version)
    assert checked.handlers == ("fetch",)


FAULTS = {
    "syntax": ("export default {\n  fetch( { \n}", "Uncaught SyntaxError: Unexpected end of input\n    at index.js:3:1"),
    "throws": (
        "function f() { throw new TypeError('boom'); }\nf();\n" + HELLO,
        "Uncaught TypeError: boom\n    at index.js:1:22 in f\n",
    ),
    "missing module": (
        "import x from './nope.js';\n" + HELLO,
        'Uncaught Error: No such module "nope.js".\n    imported from "index.js"',
    ),
    "fetch at start": ("await fetch('http://example.com');\n" + HELLO, "Disallowed operation called within global scope."),
    "never settles": ("await new Promise(() => {});\n" + HELLO, "Top-level await in module is unsettled."),
    "bad export": ("export const a = 1;", "Incorrect type for map entry 'a'"),
    "burns CPU": ("while (true) {}\n" + HELLO, "Script startup exceeded CPU time limit."),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_faults_of_the_code(checker: WorkerdChecker, shop: WorkerShop, name: str) -> None:
    source, text = FAULTS[name]
    assert text in await refused(checker, shop.instance("a", source).version)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"flags": ("no_such_flag",)}, "No such compatibility flag: no_such_flag"),
        ({"flags": ("experimental",)}, "The compatibility flag experimental is experimental"),
        ({"flags": ("unsafe_module", "experimental")}, "is experimental"),
        ({"flags": ("nodejs_compat", "no_nodejs_compat")}, "mutually contradictory"),
        ({"date": "2099-01-01"}, "Can't set compatibility date in the future"),
        ({"date": "yesterday"}, "Invalid compatibility date: yesterday"),
    ],
    ids=["unknown flag", "experimental", "unsafe", "contradiction", "future", "no date"],
)
async def test_faults_of_the_settings(checker: WorkerdChecker, shop: WorkerShop, options: dict[str, object], text: str) -> None:
    assert text in await refused(checker, shop.instance("a", **options).version)  # pyright: ignore[reportArgumentType]


async def test_a_broken_wasm_module(checker: WorkerdChecker, shop: WorkerShop) -> None:
    modules = (shop.module("a.wasm", b"nope", "wasm"),)
    text = await refused(checker, shop.instance("a", "import m from './a.wasm';\n" + HELLO, modules=modules).version)
    assert "CompileError" in text


async def test_python_is_refused_with_a_reason(checker: WorkerdChecker, shop: WorkerShop) -> None:
    modules = (shop.module("a.py", "x = 1", "python"),)
    assert "python modules are not supported" in await refused(checker, shop.instance("a", modules=modules).version)


@pytest.mark.skipif(not LIMITED, reason="memory limits need root and control groups")
async def test_start_that_takes_too_much_memory(checker: WorkerdChecker, shop: WorkerShop) -> None:
    source = "const held = []; while (true) held.push(new Uint8Array(1 << 20).fill(1));\n" + HELLO
    limits = Limits(memory_mib_max=64)
    assert "memory" in await refused(checker, shop.instance("a", source, limits=limits).version)


async def test_settings_of_assets(checker: WorkerdChecker, shop: WorkerShop) -> None:
    good = shop.assets({"/index.html": "x"}, headers="/*\n  X-A: b\n", run_worker_first=("/api/*",))
    await checker.check(shop.instance("a", assets=good).version)
    assert (await checker.check(shop.instance("a", None, assets=good).version)).startup_time_ms == 0
    bad = shop.assets({"/index.html": "x"}, html_handling="nonsense")
    assert "unknown variant `nonsense`" in await refused(checker, shop.instance("a", None, assets=bad).version)
    bad = shop.assets({"/index.html": "x"}, run_worker_first=("api",))
    assert "rules must start with '/'" in await refused(checker, shop.instance("a", assets=bad).version)


async def test_what_a_killed_checker_left_is_removed(tmp_path: Path, shop: WorkerShop) -> None:
    run = Path(tempfile.mkdtemp(prefix="sk"))
    places = Places(tmp_path / "checks", run)
    places.make()
    left = detached.spawn(detached.Spawn(name="check.1", argv=("/bin/sleep", "600"), tag=places.tag), records=places.processes)
    async with WorkerdChecker(data_dir=tmp_path / "checks", run_dir=run, fetch_blob=shop.fetch) as checker:
        await checker.check(shop.instance("a").version)
        assert not left.alive()
    left.close()
