"""Conversations of clients with instances, over a WebSocket: `exec`, `logs`, files and usage of the own API.

GET /v1/apps/{account}/{app}/instances/{instance}/talk     upgraded; the first message is a `What`, then frames
"""

import msgspec
from starlette.websockets import WebSocket

from skerry.core.policy.program_fields import PATH_BYTES_MAX, WORD_BYTES_MAX, WORDS_MAX
from skerry.core.types.view import InstanceView
from skerry.kit.frames import Failed, word_frame
from skerry.ports.calls import TAIL_BYTES_MAX, Call, CopyIn, CopyOut, Exec, Logs, NotAnswered, Pipe, PipeClosed, Usage, What
from skerry.ports.operations import NotFound, Operations
from skerry.services.accounts import Accounts
from skerry.services.calls.exchange import Exchange, join
from skerry.services.ids import Ids
from skerry.wire.own import border
from skerry.wire.own.errors import ERROR_TYPES, Refusal, answer, refusal_of
from skerry.wire.pipes import SocketPipe

TERMINAL_MAX = 10_000  # rows or columns
_WHAT: msgspec.json.Decoder[What] = msgspec.json.Decoder(What)


class TalkApi:
    def __init__(self, operations: Operations, accounts: Accounts, exchange: Exchange, ids: Ids) -> None:
        self._operations = operations
        self._accounts = accounts
        self._exchange = exchange
        self._ids = ids

    async def talk(self, socket: WebSocket) -> None:
        """Who may not is refused as any request is; later errors are the last message."""
        try:
            seen = await self._instance(socket)
        except ERROR_TYPES as error:
            await socket.send_denial_response(answer(refusal_of(error)))
            return
        await socket.accept()
        pipe = SocketPipe(socket)
        try:
            await self._talk(pipe, seen)
        except PipeClosed:
            return
        except NotAnswered as error:
            await _say(pipe, Failed(message=str(error), hint="try again in a moment"))
        except Refusal as refusal:
            await _say(pipe, Failed(message=refusal.body.message, hint=refusal.body.hint))
        finally:
            await pipe.aclose()

    async def _instance(self, socket: WebSocket) -> InstanceView:
        _, account = await border.author(socket, self._accounts)
        app, name = border.app_of(socket), str(socket.path_params["instance"])
        for seen in await self._operations.instances(account, app):
            if seen.instance == name:
                return seen
        raise NotFound(f"there is no instance {name[:16]!r} of {app}", hint="`skerry instances` lists them")

    async def _talk(self, pipe: Pipe, seen: InstanceView) -> None:
        first = await pipe.receive()
        if first is None:
            return
        call = Call(id=self._ids.hex32(), instance=seen.instance, what=_what(first))
        await join(pipe, await self._exchange.ask(seen.site, call))


def _what(message: bytes) -> What:
    """Raises `Refusal`: what cannot be meant goes no further than here."""
    try:
        what = _WHAT.decode(message)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal(400, "invalid", f"the first message is not what is asked for: {error}") from None
    match what:
        case Exec(spec=spec):
            words = (*spec.argv, *spec.env, *spec.env.values())
            if not spec.argv or len(words) > WORDS_MAX or sum(len(word.encode()) for word in words) > WORD_BYTES_MAX:
                raise Refusal(400, "invalid", f"a command has 1 to {WORDS_MAX} words, and {WORD_BYTES_MAX:,} bytes at most")
            if any("\0" in word for word in words) or any("=" in name for name in spec.env):
                raise Refusal(400, "invalid", "a command has a NUL in it, or a variable's name an equals sign")
            if not (0 < spec.rows <= TERMINAL_MAX and 0 < spec.columns <= TERMINAL_MAX):
                raise Refusal(400, "invalid", f"a terminal has 1 to {TERMINAL_MAX} rows and columns")
        case Logs(tail_bytes=tail_bytes):
            if not 0 <= tail_bytes <= TAIL_BYTES_MAX:
                raise Refusal(400, "invalid", f"tail_bytes is {tail_bytes}; it is 0 to {TAIL_BYTES_MAX:,}")
        case CopyOut(path=path) | CopyIn(directory=path):
            if not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_BYTES_MAX:
                raise Refusal(400, "invalid", f"{path[:80]!r} is no absolute path of at most {PATH_BYTES_MAX} bytes")
        case Usage():
            pass
    return what


async def _say(pipe: Pipe, word: Failed) -> None:
    try:
        await pipe.send(word_frame(word))
    except PipeClosed:
        return
