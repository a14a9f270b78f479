"""Goal: what running streams would be charged is written down while others' events go out.

Method: a sweep over hundreds of streams that are due together, and a checkpoint that takes time;
how many are taken in each turn of the loop is counted.
"""

import asyncio
from itertools import pairwise

from relay.clock import clock_s
from relay.config import Timeouts
from relay.flow.call import Call
from relay.flow.request import RequestFacts
from relay.flow.response import Response
from relay.flow.running import CHECK_SLICE_S, RunningCalls
from relay.stage import COMMITTED
from tests.flow.test_zero_window import ScriptedClient

COUNT = 300
EVERY_S = 5.0
TAKES_S = CHECK_SLICE_S / 4


def stream(number: int) -> Call:
    client = ScriptedClient()
    call = Call(number.to_bytes(16, "big"), client, 0)
    call.begun_s, call.stage = 1.0, COMMITTED
    call.request = RequestFacts("m", stream=True)
    call.response = Response(client, call.id, b"")
    call.response.spoke_s = 100.0
    return call


class Book:
    """What is written down, and how long that takes."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.fails: set[int] = set()
        self.running = RunningCalls(Timeouts(), self.checkpoint, lambda _: False, EVERY_S)

    def checkpoint(self, call: Call) -> None:
        number = int.from_bytes(call.id, "big")
        self.written.append(number)
        if number in self.fails:
            raise AssertionError("a bug of ours")
        ends_s = clock_s() + TAKES_S
        while clock_s() < ends_s:
            pass


async def turns(book: Book, count: int) -> list[int]:
    """Let the loop turn until so much is written; return how much was in each turn."""
    seen = [0, len(book.written)]
    async with asyncio.timeout(20):
        while seen[-1] < count:
            await asyncio.sleep(0)
            seen.append(len(book.written))
    return [after - before for before, after in pairwise(seen)]


async def test_streams_that_are_due_together_are_written_down_in_slices() -> None:
    book = Book()
    calls = [stream(number) for number in range(COUNT)]
    for call in calls:
        book.running.add(call)
    book.running.sweep(7.0)
    assert 0 < len(book.written) < COUNT // 10
    book.running.sweep(7.25)  # those that wait for their turn are not due a second time
    assert max(await turns(book, COUNT)) <= 5
    assert book.written == list(range(COUNT))
    await asyncio.sleep(0)
    book.running.sweep(9.0)
    assert len(book.written) == COUNT, "each once in five seconds"
    book.running.sweep(12.5)
    await turns(book, 2 * COUNT)
    assert book.written[COUNT:] == list(range(COUNT))


async def test_a_call_that_ended_meanwhile_is_not_written_down_and_a_failure_stops_nobody() -> None:
    book = Book()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    calls = [stream(number) for number in range(COUNT)]
    for call in calls:
        book.running.add(call)
    book.fails = {COUNT // 2}
    book.running.sweep(7.0)
    book.running.remove(calls[-1])
    await turns(book, COUNT - 1)
    await asyncio.sleep(0)
    assert book.written == list(range(COUNT - 1)) and len(told) == 1
