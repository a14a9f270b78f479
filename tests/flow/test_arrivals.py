"""Goal: requests that come all at once are begun in slices; what is under way goes on between them.

Method: a data plane with real sockets on uvloop, and some hundred kept connections whose requests
the kernel hands over with one turn of the loop. A probe counts how many were begun in each turn.
"""

import asyncio
import socket
from itertools import pairwise

import pytest

from relay.clock import clock_s
from relay.edge.client.arrivals import AT_ONCE, REQUEST_BYTES, SLICE_S, Arrivals
from relay.model import LineKind
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_isolation import answer, rig_of

COUNT = 900
A_TURN_MAX = COUNT // 2
"""AT_ONCE, and what SLICE_S begins: some 200 where all is compiled."""
ONE = post("/v1/chat/completions", chat()).replace(b"Connection: close", b"Connection: keep-alive")


async def connect(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def read_answer(sock: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"}"):
        piece = await asyncio.get_running_loop().sock_recv(sock, 4096)
        if not piece:
            break
        said += piece
    return said


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "first"])
async def test_requests_that_come_at_once_are_begun_in_slices(*, kept: bool) -> None:
    async with Peer(answer) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        socks = [await connect(rig.port) for _ in range(COUNT)]
        if kept:
            for sock in socks:  # so that each has a head that is known
                await asyncio.get_running_loop().sock_sendall(sock, ONE)
                assert (await read_answer(sock)).startswith(b"HTTP/1.1 200")
        begun, counters = [0], rig.server.counters

        async def probe() -> None:
            while counters.inflight < COUNT and len(begun) < 10_000:
                await asyncio.sleep(0)
                begun.append(counters.inflight)

        probing = asyncio.create_task(probe())
        await asyncio.sleep(0)
        for sock in socks:
            sock.send(ONE)  # this loop runs nothing meanwhile: all are there at its next turn
        async with asyncio.timeout(20):
            said = await asyncio.gather(*(read_answer(sock) for sock in socks))
        probing.cancel()
        assert {one[:12] for one in said} == {b"HTTP/1.1 200"}
        assert counters.inflight == 0
        steps = [after - before for before, after in pairwise(begun)]
        assert 0 < max(steps) < A_TURN_MAX, max(steps)
        for sock in socks:
            sock.close()


async def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    async with Peer(answer) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        socks = [await connect(rig.port) for _ in range(COUNT)]
        await asyncio.sleep(0.1)
        for sock in socks:
            sock.send(ONE)
            sock.close()
        async with asyncio.timeout(20):
            while rig.server.counters.connections or rig.server.counters.inflight:
                await asyncio.sleep(0.01)


async def test_who_waits_goes_in_order_and_nobody_overtakes() -> None:
    arrivals = Arrivals()
    begun: list[int] = []
    turns: list[int] = []

    def begin(number: int) -> None:
        begun.append(number)
        ends_s = clock_s() + SLICE_S
        while clock_s() < ends_s:
            pass

    assert not any(arrivals.crowded() for _ in range(AT_ONCE))
    for number in range(20):
        assert arrivals.crowded()
        arrivals.wait(lambda number=number: begin(number))  # type: ignore[misc]
    while len(begun) < 19:
        assert arrivals.crowded()  # whoever comes now is behind them
        turns.append(len(begun))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == list(range(20))
    assert max(after - before for before, after in pairwise(turns)) <= 2
    assert not arrivals.crowded()


async def test_few_requests_a_turn_never_wait() -> None:
    arrivals = Arrivals()
    for _ in range(10 * AT_ONCE):
        assert not arrivals.crowded()
        await asyncio.sleep(0)


async def test_large_requests_count_for_several() -> None:
    arrivals = Arrivals()
    begun: list[int] = []
    large = AT_ONCE // 2 * REQUEST_BYTES
    assert [arrivals.crowded(large) for _ in range(3)] == [False, False, True]
    arrivals.wait(lambda: begun.append(1))
    assert arrivals.crowded()
    arrivals.wait(lambda: begun.append(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == [1, 2]
    assert not arrivals.crowded(10 * large)  # whatever its size, the first goes


async def test_tasks_that_wait_have_a_turn_of_the_loop_each() -> None:
    arrivals = Arrivals()
    turns = [0]
    begun: list[tuple[int, int]] = []

    async def work(number: int) -> None:
        if arrivals.crowded(AT_ONCE * REQUEST_BYTES):
            await arrivals.turn()
        begun.append((number, turns[0]))

    works = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0)
    works[2].cancel()
    while len(begun) < 5:
        turns[0] += 1
        await asyncio.sleep(0)
    assert [number for number, _ in begun] == [0, 1, 3, 4, 5]
    found = [turn for _, turn in begun]
    assert sorted(set(found)) == found, found


LARGE = 40
TEXT = "The quick brown fox jumps over the lazy dog. " * 4_000


def ask_line(kind: LineKind, text: str) -> bytes:
    body = chat(messages=[{"role": "user", "content": text}])
    raw = post("/v1/chat/completions", body, f"x-relay-line: {kind.value}")
    return raw.replace(b"Connection: close", b"Connection: keep-alive")


async def test_a_dedicated_line_goes_before_large_requests_of_others() -> None:
    async with Peer(answer) as peer, rig_of(peer) as rig:
        flood = [await connect(rig.port) for _ in range(LARGE)]
        own = await connect(rig.port)
        loop = asyncio.get_running_loop()
        large = ask_line(LineKind.TRAINING, TEXT)
        for sock in flood:  # so that each has a head that is known
            await loop.sock_sendall(sock, ask_line(LineKind.TRAINING, "hi"))
            assert (await read_answer(sock)).startswith(b"HTTP/1.1 200")
        await loop.sock_sendall(own, ask_line(LineKind.DEDICATED, "hi"))
        assert (await read_answer(own)).startswith(b"HTTP/1.1 200")
        for sock in flood:  # all but the last byte is read before the moment that counts
            await loop.sock_sendall(sock, large[:-1])
        await asyncio.sleep(0.1)
        lines = rig.server.counters.requests

        def served() -> int:
            return sum(count for (line, *_), count in lines.items() if line == "training")

        before = served()
        for sock in flood:
            sock.send(large[-1:])
        own.send(ask_line(LineKind.DEDICATED, "hi"))
        answers = [asyncio.create_task(read_answer(sock)) for sock in flood]
        assert (await read_answer(own)).startswith(b"HTTP/1.1 200")
        ahead = served() - before
        async with asyncio.timeout(20):
            said = await asyncio.gather(*answers)
        assert {one[:12] for one in said} == {b"HTTP/1.1 200"}
        assert served() - before == LARGE
        assert ahead < LARGE // 2, ahead
        for sock in (*flood, own):
            sock.close()


async def test_a_client_that_leaves_behind_a_large_body_is_forgotten() -> None:
    async with Peer(answer) as peer, rig_of(peer) as rig:
        loop = asyncio.get_running_loop()
        flood = [await connect(rig.port) for _ in range(LARGE)]
        for sock in flood:
            await loop.sock_sendall(sock, ask_line(LineKind.TRAINING, "hi"))
            await read_answer(sock)
        large = ask_line(LineKind.TRAINING, TEXT)
        for sock in flood:
            await loop.sock_sendall(sock, large[:-1])
        await asyncio.sleep(0.1)
        for sock in flood:
            sock.send(large[-1:])
            sock.close()
        async with asyncio.timeout(20):
            while rig.server.counters.connections or rig.server.counters.inflight:
                await asyncio.sleep(0.01)
        assert rig.server._door.room.held_bytes == 0
        assert len(await rig.ended(2 * LARGE)) == 2 * LARGE  # it was whole: it is written down


async def test_who_sends_ahead_has_a_slice_a_turn_however_many_they_are() -> None:
    """And one request of each connection before the next one of any."""
    arrivals = Arrivals()
    begun: list[int] = []
    turns: list[int] = []

    def begin(number: int) -> None:
        begun.append(number)
        ends_s = clock_s() + SLICE_S
        while clock_s() < ends_s:
            pass
        if len(begun) < 30:
            arrivals.wait_ahead(lambda: begin(number))

    for number in range(5):
        arrivals.wait_ahead(lambda number=number: begin(number))  # type: ignore[misc]
    while len(begun) < 30:
        assert not arrivals.crowded()  # nobody else waits for them
        turns.append(len(begun))
        await asyncio.sleep(0)
    assert begun[:30] == list(range(5)) * 6
    assert max(after - before for before, after in pairwise(turns)) <= 2


async def test_one_that_fails_does_not_hold_up_who_waits_behind_it() -> None:
    arrivals = Arrivals()
    begun: list[str] = []
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail() -> None:
        raise AssertionError("a bug of ours")

    while not arrivals.crowded():
        pass
    arrivals.wait(fail)
    arrivals.wait(lambda: begun.append("waited"))
    arrivals.wait_ahead(fail)
    arrivals.wait_ahead(lambda: begun.append("sent ahead"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert sorted(begun) == ["sent ahead", "waited"] and len(told) == 2
    assert not arrivals.crowded()


async def test_pipelines_of_many_strangers_hold_nobody_up() -> None:
    """Each turn begins a few of them, so that a call beside them is soon served."""
    strangers, requests = 600, 30
    nope = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
    async with Peer(answer) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        counters, loop = rig.server.counters, asyncio.get_running_loop()
        payer = await connect(rig.port)
        await loop.sock_sendall(payer, ONE)
        assert (await read_answer(payer)).startswith(b"HTTP/1.1 200")
        socks = [await connect(rig.port) for _ in range(strangers)]
        before = sum(counters.requests.values())
        answered, served_at = [before], 0
        for sock in socks:
            sock.send(nope * requests)
        payer.send(ONE)
        paid = asyncio.create_task(read_answer(payer))
        while answered[-1] < before + strangers * requests + 1:
            await asyncio.sleep(0)
            answered.append(sum(counters.requests.values()))
            if paid.done() and not served_at:
                served_at = answered[-1]
        assert (await paid).startswith(b"HTTP/1.1 200")
        steps = [after - before for before, after in pairwise(answered)]
        assert max(steps) < strangers // 2, max(steps)
        assert served_at < answered[-1] // 4, "it went before nearly all of theirs"
        for sock in socks:
            assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 404")
            sock.close()
        payer.close()
