"""The fake Firecracker answers as the real one did: 409 recorded pairs, one after the other."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from skerry.testing.firecracker.machine import Machine
from skerry.testing.firecracker.server import serving

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "firecracker-transcripts.jsonl").read_text().splitlines()]
COLUMN = re.compile(r" at line \d+ column \d+")
SHORTENED = re.compile(r"\.\.\. <(\d+) bytes>$")  # long texts were not recorded whole
VSOCK_IN_THE_WAY = "vsock path exists already"


def processes() -> list[list[dict[str, Any]]]:
    """The pairs by the Firecracker process that gave them."""
    found: list[list[dict[str, Any]]] = [[]]
    for pair in RECORDED:
        last = found[-1]
        fresh = pair["state"] == "before boot" and any(each["state"] != "before boot" or started(each) for each in last)
        ended = bool(last) and last[-1].get("process_exit") is not None
        # A case is set up, tried, looked at and tried again; what follows was done to the next process.
        after_case = any(each.get("case") for each in last) and pair["method"] == "PUT" and pair["path"] != "/actions"
        options = pair["step"] in (145, 377, 382)  # other command lines, or set up anew
        if last and (fresh or ended or options or (after_case and pair["state"] == "before boot")):
            found.append([])
        found[-1].append(pair)
    return found


def started(pair: dict[str, Any]) -> bool:
    return pair["status"] == 204 and (
        pair["path"] == "/snapshot/load" or (pair["request"] or {}) == {"action_type": "InstanceStart"}
    )


def body_of(pair: dict[str, Any]) -> bytes | None:
    request = pair["request"]
    if request is None or request == "":
        return None
    return request.encode() if isinstance(request, str) else json.dumps(request).encode()


def comparable(answer: Any, step: int) -> Any:
    """Without columns; and without what traffic had taken out of a bucket in the meantime."""
    text = COLUMN.sub("", json.dumps(answer, sort_keys=True))
    return text.replace('"one_time_burst": 499', '"one_time_burst": 500') if step == 289 else text


def prepare(directory: Path) -> None:
    (directory / "vmlinux").write_bytes(b"\x7fELF")
    (directory / "rootfs.ext4").write_bytes(bytes(4096))


@pytest.mark.parametrize(
    "pairs",
    [each for each in processes() if each[0]["method"] != "(raw)"],
    ids=lambda pairs: f"{pairs[0]['step']}-{pairs[-1]['step']}",
)
def test_answers_as_recorded(pairs: list[dict[str, Any]], tmp_path: Path) -> None:
    prepare(tmp_path)
    machine = Machine(
        tmp_path, name=name_of(pairs), pci=any("--enable-pci" in each["state"] for each in pairs),
        metadata_bytes_max=60 if pairs[0]["step"] == 377 else 51_200,
    )  # fmt: skip
    if pairs[0]["step"] > 278:
        take_snapshot(tmp_path)
    if any(each.get("case") == VSOCK_IN_THE_WAY for each in pairs):
        (tmp_path / "v.sock").touch()
    for pair in pairs:
        if pair["step"] == 381:
            continue  # refused by the parser: below
        answer = (
            machine.call(pair["method"], pair["path"], body_of(pair))
            if pair["method"] in ("GET", "PUT", "PATCH", "DELETE")
            else None
        )
        if answer is None:
            continue  # other methods: below
        told = (answer.status, comparable(answer.body, pair["step"]), answer.deprecated, answer.exits)
        wanted = (
            pair["status"],
            comparable(pair["response"], pair["step"]),
            bool(pair.get("deprecation")),
            pair.get("process_exit") == 1,
        )
        assert told == wanted, f"step {pair['step']}: {pair['method']} {pair['path']} {pair['request']}"


def name_of(pairs: list[dict[str, Any]]) -> str:
    return next((each["response"]["id"] for each in pairs if each["path"] == "/" and each["method"] == "GET"), "fake")


def take_snapshot(directory: Path) -> None:
    """As the recorded machine was when it was taken."""
    machine = Machine(directory)
    until = next(pair["step"] for pair in RECORDED if pair["path"] == "/snapshot/create" and pair["status"] == 204)
    for pair in RECORDED:
        if 145 <= pair["step"] <= until and pair["method"] in ("PUT", "PATCH"):
            machine.call(pair["method"], pair["path"], body_of(pair))
    assert (directory / "snap.state").exists()


RAW = [pair for pair in RECORDED if pair["method"] in ("(raw)", "HEAD", "POST", "OPTIONS") or pair["step"] == 381]


def raw_request(pair: dict[str, Any]) -> bytes:
    """The bytes that were sent; shortened ones are made again."""
    if pair["method"] != "(raw)":
        body = body_of(pair) or b""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        return f"{pair['method']} {pair['path']} HTTP/1.1\r\n{length}\r\n".encode() + body
    text = pair["request"]
    if found := SHORTENED.search(text):
        head = text[: found.start()]
        filling = head[-1] * (int(found.group(1)) - len(head))
        end = '"}' if '{"' in head else "\r\n\r\n"
        text = head + filling[: len(filling) - len(end)] + end
    return text.encode("latin-1")


@pytest.mark.parametrize("pair", RAW, ids=lambda pair: f"{pair['step']} {pair['path'][:40]}")
async def test_parses_http_as_recorded(pair: dict[str, Any], tmp_path: Path) -> None:
    limit = 400 if pair["step"] == 381 else 51_200
    async with serving(Machine(tmp_path), tmp_path / "a", body_bytes_max=limit):
        held = [await asyncio.open_unix_connection(str(tmp_path / "a")) for _ in range(10 if pair["status"] == 503 else 0)]
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "a"))
        writer.write(raw_request(pair))
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        assert status_line == f"HTTP/1.1 {pair['status']} "
        if pair.get("headers") and "... <" not in str(pair["response"]):
            recorded = {name: value for name, value in pair["headers"].items() if name != "content-length"}
            assert {name: headers[name] for name in recorded} == recorded
        check_body(body, pair["response"])
        for _, each in held:
            each.close()
        writer.close()


def check_body(body: bytes, wanted: Any) -> None:
    if wanted is None:
        assert body == b""
    elif isinstance(wanted, dict):
        assert json.loads(body) == wanted
    elif found := SHORTENED.search(wanted):
        assert body.decode().startswith(wanted[: found.start()])
    else:
        assert body.decode() == wanted


def test_every_recorded_pair_is_answered() -> None:
    assert sum(len(pairs) for pairs in processes()) == len(RECORDED) == 409
