"""The client's end of a conversation with an instance, over a WebSocket (`skerry.wire.own.talk`)."""

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Generator, Iterator, Sequence
from urllib.parse import quote

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from skerry.apps.cli_base import print_json
from skerry.apps.client import ClientError, NotReachable, Target
from skerry.apps.programs import words
from skerry.core.types.view import InstanceView
from skerry.kit.frames import MESSAGE_BYTES_MAX, STDERR, STDIN, Exit, Failed, Resize, Word, data_frame, parse, word_frame
from skerry.kit.record import Record, encode
from skerry.ports.calls import TAIL_BYTES_MAX, Exec, Logs, What
from skerry.ports.sandbox import ExecSpec

OPEN_S_MAX = 15.0
LOOK_S = 0.2
OUTPUT_BYTES_MAX = 64 << 20  # of a command whose output is printed as JSON
ID_CHARS_SHOWN = 8
ROWS, COLUMNS = 24, 80


class Partner(Record):
    """Whom to talk with, and where."""

    target: Target
    account: str
    app: str
    instance: str


@contextlib.contextmanager
def talk(partner: Partner, what: What) -> Generator[ClientConnection]:
    """An open conversation. Raises `ClientError`."""
    target = partner.target
    parts = ("v1", "apps", partner.account, partner.app, "instances", partner.instance, "talk")
    url = "/".join((target.api_url.replace("http", "ws", 1), *(quote(part, safe="") for part in parts)))
    headers = {"authorization": f"Bearer {target.token}"}
    try:
        opened = connect(url, additional_headers=headers, open_timeout=OPEN_S_MAX, max_size=MESSAGE_BYTES_MAX + 1, proxy=None)
    except InvalidStatus as error:
        raise _refused(error) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise NotReachable(f"{target.api_url} does not answer: {error}", hint="is the platform running?") from error
    with opened:
        opened.send(encode(what))
        yield opened


def frames(opened: ClientConnection) -> Iterator[tuple[int, bytes] | Word]:
    """What comes, up to the word that ends it. Raises `ClientError` when that says that it failed, or never comes."""
    try:
        while True:
            message = opened.recv()
            heard = parse(message if isinstance(message, bytes) else message.encode())
            if isinstance(heard, Failed):
                raise ClientError(heard.message, hint=heard.hint)
            yield heard
            if isinstance(heard, Exit):
                return
    except ConnectionClosed:
        raise ClientError("the conversation broke off", hint="the instance, its node or its city may have ended") from None


def run_command(partner: Partner, spec: ExecSpec, *, json: bool) -> int:
    """Run it with this process's stdin and stdout; its exit code."""
    with talk(partner, Exec(spec=spec)) as opened:
        if json:
            opened.send(data_frame(STDIN, b""))
            return _collected(opened, partner.instance)
        with _terminal(opened) if spec.terminal else contextlib.nullcontext():
            threading.Thread(target=_pump_stdin, args=(opened,), daemon=True).start()
            for heard in frames(opened):
                if isinstance(heard, tuple):
                    stream = sys.stderr.buffer if heard[0] == STDERR else sys.stdout.buffer
                    stream.write(heard[1])
                    stream.flush()
                elif isinstance(heard, Exit):
                    return heard.code
    return 1


def _collected(opened: ClientConnection, instance: str) -> int:
    out, err, code = bytearray(), bytearray(), 1
    for heard in frames(opened):
        if isinstance(heard, tuple):
            (err if heard[0] == STDERR else out).extend(heard[1])
            if len(out) + len(err) > OUTPUT_BYTES_MAX:
                raise ClientError(f"the command wrote more than {OUTPUT_BYTES_MAX >> 20} MiB", hint="leave --json out")
        elif isinstance(heard, Exit):
            code = heard.code
    said = {"instance": instance, "exit": code, "stdout": out.decode(errors="replace"), "stderr": err.decode(errors="replace")}
    print_json(said)
    return code


def _pump_stdin(opened: ClientConnection) -> None:
    descriptor = sys.stdin.fileno()
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := os.read(descriptor, MESSAGE_BYTES_MAX):
            opened.send(data_frame(STDIN, data))
        opened.send(data_frame(STDIN, b""))


def window(terminal: int) -> tuple[int, int]:
    """Rows and columns. One that does not know them (of a script, of a serial line) counts as an ordinary one."""
    columns, rows = os.get_terminal_size(terminal)
    return rows or ROWS, columns or COLUMNS


@contextlib.contextmanager
def _terminal(opened: ClientConnection) -> Generator[None]:
    """Every key goes to the command; put back as it was, whatever happens."""
    if not sys.stdin.isatty():
        yield
        return

    def resized(*_: object) -> None:
        rows, columns = window(sys.stdout.fileno())
        with contextlib.suppress(ConnectionClosed):
            opened.send(word_frame(Resize(rows=rows, columns=columns)))

    before = termios.tcgetattr(sys.stdin)
    handler = signal.signal(signal.SIGWINCH, resized)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def tail_bytes(text: str) -> int:
    """64K as a number. Raises `ClientError`."""
    try:
        number = words.mib(text) << 20 if text[-1:].upper() in "MG" else round(float(text.upper().removesuffix("K")) * 1024)
    except ValueError:
        raise ClientError(f"{text[:40]!r} is no size: 64K and 1M are") from None
    if not 0 <= number <= TAIL_BYTES_MAX:
        raise ClientError(f"the past has at most {TAIL_BYTES_MAX >> 20}M")
    return number


def print_logs(target: Target, seen: Sequence[InstanceView], *, tail_bytes: int, follow: bool, json: bool) -> int:
    """All of them; with `follow` side by side, until Ctrl-C. 1 if any could not be read."""
    writer = _Lines(many=len(seen) > 1, json=json)
    failed: list[ClientError] = []

    def one(instance: InstanceView) -> None:
        try:
            partner = Partner(target=target, account=instance.account, app=instance.app, instance=instance.instance)
            with talk(partner, Logs(tail_bytes=tail_bytes, follow=follow)) as opened:
                for heard in frames(opened):
                    if isinstance(heard, tuple):
                        writer.add(instance, heard[1])
        except ClientError as error:
            failed.append(error)
            print(f"skerry: {instance.instance[:ID_CHARS_SHOWN]} on {instance.node}: {error}", file=sys.stderr)
        finally:
            writer.end(instance)

    threads = [threading.Thread(target=one, args=(instance,), daemon=True) for instance in seen]
    with contextlib.suppress(KeyboardInterrupt):
        for thread in threads:
            thread.start()
            if not follow:
                thread.join()
        for thread in threads:
            while thread.is_alive():
                thread.join(LOOK_S)
    return 1 if failed else 0


class _Lines:
    """Whole lines of several instances, one after the other."""

    def __init__(self, *, many: bool, json: bool) -> None:
        self._many = many
        self._json = json
        self._rest: dict[str, bytes] = {}
        self._turn = threading.Lock()

    def add(self, instance: InstanceView, data: bytes) -> None:
        *lines, rest = (self._rest.get(instance.instance, b"") + data).split(b"\n")
        self._rest[instance.instance] = rest
        with self._turn:
            for line in lines:
                self._print(instance, line)

    def end(self, instance: InstanceView) -> None:
        rest = self._rest.pop(instance.instance, b"")
        if rest:
            with self._turn:
                self._print(instance, rest)

    def _print(self, instance: InstanceView, line: bytes) -> None:
        text = line.decode(errors="replace")
        if self._json:
            print_json({"instance": instance.instance, "node": instance.node, "line": text})
        else:
            front = f"{instance.node} {instance.instance[:ID_CHARS_SHOWN]}  " if self._many else ""
            print(f"{front}{text}", flush=True)


class _Said(msgspec.Struct):
    message: str = ""
    hint: str = ""


class _Envelope(msgspec.Struct):
    error: _Said


def _refused(error: InvalidStatus) -> ClientError:
    try:
        said = msgspec.json.decode(error.response.body or b"", type=_Envelope).error
    except msgspec.DecodeError:
        return ClientError(f"the platform answered {error.response.status_code}", hint="is it a Skerry API?")
    return ClientError(said.message, hint=said.hint)
