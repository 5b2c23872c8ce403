"""Calls between planes: who asks gets the pipe of the plane that answers, or is told why not."""

import asyncio

import pytest

from skerry.core.types.ids import InstanceId
from skerry.ports.calls import Call, Logs, NotAnswered
from skerry.services.calls import exchange as module
from skerry.services.calls.exchange import Exchange, join
from skerry.testing.pipes import pipe_pair


def call(name: str = "1") -> Call:
    return Call(id=name * 32, instance=InstanceId("00112233445566aa"), what=Logs())


async def test_the_one_that_asks_talks_to_the_one_that_answers() -> None:
    exchange = Exchange()
    near, far = pipe_pair()
    asking = asyncio.create_task(exchange.ask("lhr", call()))
    assert await exchange.next_calls("lhr", 10_000) == (call(),)
    meeting = asyncio.create_task(exchange.meet("lhr", call().id, near))
    conversation = await asking
    await conversation.send(b"hello")
    assert await far.receive() == b"hello"
    await far.send(b"well")
    assert await conversation.receive() == b"well"
    await conversation.aclose()
    assert await meeting
    assert await far.receive() is None


async def test_a_call_that_waits_already_is_handed_out_at_once_and_once() -> None:
    exchange = Exchange()
    asking = [asyncio.create_task(exchange.ask("lhr", call(name))) for name in "12"]
    await asyncio.sleep(0)
    assert len(await exchange.next_calls("lhr", 10_000)) == 2
    assert await exchange.next_calls("lhr", 0) == ()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_another_planes_calls_are_not_for_us() -> None:
    exchange = Exchange()
    asking = asyncio.create_task(exchange.ask("lhr", call()))
    assert await exchange.next_calls("cur", 0) == ()
    await exchange.next_calls("lhr", 10_000)
    near, _ = pipe_pair()
    assert not await exchange.meet("cur", call().id, near)
    assert not await exchange.meet("lhr", "2" * 32, near)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_who_has_left_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S_MAX", 0.01)
    exchange = Exchange()
    with pytest.raises(NotAnswered, match="lhr does not answer"):
        await exchange.ask("lhr", call())
    assert await exchange.next_calls("lhr", 0) == ()  # nobody is there to hear the answer
    near, _ = pipe_pair()
    assert not await exchange.meet("lhr", call().id, near)


async def test_calls_that_nobody_comes_for_are_limited() -> None:
    exchange = Exchange()
    asking = [asyncio.create_task(exchange.ask("lhr", call(f"{n:x}"[0]))) for n in range(module.WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(NotAnswered, match="waiting already"):
        await exchange.ask("lhr", call())
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_joined_pipes_pass_on_until_either_end_closes() -> None:
    (client, near), (far, node) = pipe_pair(), pipe_pair()
    joined = asyncio.create_task(join(near, far))
    for number in range(50):  # more than a pipe holds
        await client.send(b"%d" % number)
        assert await node.receive() == b"%d" % number
    await node.send(b"answer")
    assert await client.receive() == b"answer"
    await node.aclose()
    await joined
    assert await client.receive() is None


async def test_a_reader_that_does_not_read_holds_the_writer_back() -> None:
    (client, near), (far, _node) = pipe_pair(), pipe_pair()
    joined = asyncio.create_task(join(near, far))
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            while True:
                await client.send(b"x")
                sent += 1
    assert sent < 100
    joined.cancel()
    await asyncio.gather(joined, return_exceptions=True)
