"""Goal: nobody's bodies keep the others out: what has arrived counts, and each has a share.

Method: bodies that announce much and drip, of keys and addresses; the calls of another account
beside them.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from relay.config import Billing, Config, Server, Timeouts
from relay.edge.client.body_room import SMALL_BYTES, BodyRoom
from relay.errors import RateLimited, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.ports import Client
from relay.flow.request import RequestHead, Rights
from relay.flow.reserve.credit import Credit
from relay.model import Account, Dialect, Snapshot
from relay.records import Endpoint
from relay.wire.api_keys import digest
from tests.flow.rig import KEY, MODEL, PEPPER, Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import CHAT, answer_json, read
from tests.flow.test_credit import Bank

replace = msgspec.structs.replace

OTHER = "relay_other-key"
KIB = 1024


def make_call(account_id: int, ip: str) -> Call:
    call = Call(bytes(16), cast("Client", object()), 0)
    call.head = RequestHead(Endpoint.CHAT, None, ip, "", Dialect.OPENAI, "", b"")
    call.rights = Rights(account=Account(id=account_id, name=f"a{account_id}", group_id=1))
    return call


def room() -> BodyRoom:
    return BodyRoom(Server(buffered_bytes_max=1000 * KIB, buffered_share_max=0.25))


def test_a_share_is_an_accounts_and_an_addresss() -> None:
    bodies = room()
    bodies.take(make_call(1, "a"), 200 * KIB)
    with pytest.raises(RateLimited, match="account"):
        bodies.take(make_call(1, "b"), 60 * KIB)
    with pytest.raises(RateLimited, match="address"):
        bodies.take(make_call(2, "a"), 60 * KIB)
    bodies.take(make_call(2, "b"), 60 * KIB)
    assert bodies.held_bytes == 260 * KIB


@pytest.mark.parametrize("step", [1000, SMALL_BYTES, SMALL_BYTES + 1, 50 * KIB])
def test_what_was_taken_in_pieces_is_given_back_once(step: int) -> None:
    bodies = room()
    for _ in range(20):
        call = make_call(1, "a")
        error: RelayError | None = None
        while error is None:
            try:
                bodies.take(call, step)
            except RelayError as found:
                error = found
        assert 250 * KIB - step < bodies.held_bytes <= 250 * KIB
        bodies.free(call)
        bodies.free(call)
        assert bodies.held_bytes == 0
        assert not bodies._accounts and not bodies._addresses


def test_all_together_have_a_bound_too() -> None:
    bodies = room()
    for number in range(4):
        bodies.take(make_call(number, str(number)), 249 * KIB)
    with pytest.raises(Unavailable):
        bodies.take(make_call(9, "9"), 5 * KIB)


def two_accounts(port: int) -> Snapshot:
    snapshot = make_snapshot([make_channel(1, port)])
    (key,) = snapshot.keys.values()
    other = msgspec.structs.replace(key, id=2, account_id=2, digest=digest(PEPPER, OTHER))
    return msgspec.structs.replace(
        snapshot,
        keys={**snapshot.keys, other.digest: other},
        accounts={**snapshot.accounts, 2: Account(id=2, name="other", group_id=1)},
    )


def announced(size: int, first: bytes = b"{") -> bytes:
    head = post(CHAT, b"", key=KEY).replace(b"Content-Length: 0", b"Content-Length: %d" % size)
    return head + first


def in_chunks(size: int) -> bytes:
    head = post(CHAT, b"", key=KEY).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"%x\r\n{" % size


def expecting(size: int) -> bytes:
    return announced(size, b"").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")


def with_one(size: int) -> bytes:
    return announced(size, b"{" * 1000)


@pytest.mark.parametrize("begin", [announced, in_chunks, expecting, with_one])
async def test_bodies_that_are_announced_and_drip_keep_nobody_out(
    begin: Callable[[int], bytes],
) -> None:
    config = Config(server=Server(buffered_bytes_max=64 * KIB * KIB), timeouts=Timeouts(body_s=20))
    async with Peer(answer_json) as peer, Rig(two_accounts(peer.port), config) as rig:
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(begin(32 * KIB * KIB))
            writers.append(writer)
        async with asyncio.timeout(5):
            while rig.server.counters.inflight < 100:
                await asyncio.sleep(0.01)
        for _ in range(20):
            assert read(await rig.say(post(CHAT, chat(), key=OTHER)))[0] == 200
        for writer in writers:
            writer.close()
        async with asyncio.timeout(5):
            while rig.server.counters.inflight:
                await asyncio.sleep(0.01)


async def test_a_key_without_quota_hears_so_before_it_has_sent_its_body() -> None:
    snapshot = make_snapshot([make_channel(1, 1)], quota_nanos=10, spent_nanos=10)
    async with Rig(snapshot) as rig:
        for begin in (announced, in_chunks, expecting):
            answer = await rig.say(begin(9 * KIB * KIB), until=b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 429 "), begin


@pytest.mark.parametrize("begin", [announced, in_chunks])
async def test_a_share_that_is_full_of_what_has_arrived_is_told(
    begin: Callable[[int], bytes],
) -> None:
    config = Config(server=Server(buffered_bytes_max=4 * KIB * KIB))
    async with Peer(answer_json) as peer, Rig(two_accounts(peer.port), config) as rig:
        answer = await rig.say(begin(2 * KIB * KIB) + b"x" * 1500 * KIB, until=b"}}")
        assert answer.startswith(b"HTTP/1.1 429 ") and b"share" in answer
        assert read(await rig.say(post(CHAT, chat(), key=OTHER)))[0] == 200


async def test_an_account_with_nothing_to_pay_with_makes_us_hold_no_body() -> None:
    """Not even one whose body comes without end, on a connection whose head is known already."""
    bank = Bank(a1=0)
    credit = Credit(bank, Billing())
    credit.leasing.start()
    big = post(CHAT, chat(pad="x" * 300_000))
    big = big.replace(b"Connection: close\r\n", b"")
    dripped = big[: big.index(b"\r\n\r\n") + 1000]
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)]), paid_by=[credit]) as rig,
    ):
        for _ in range(3):
            async with asyncio.timeout(3):
                answer = await rig.say(dripped, until=b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 429 "), answer
        assert rig.server._service._room.held_bytes == 0 and not peer.requests
        bank.balances[1] = 10**12  # recharged: it counts within a second
        async with asyncio.timeout(5):
            while not (await rig.say(post(CHAT, chat()))).startswith(b"HTTP/1.1 200 "):
                await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for cut in (len(big), len(big) - 7, 900):
            writer.write(big[:cut])
            await asyncio.sleep(0.02)
            writer.write(big[cut:])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        writer.close()
    await credit.leasing.stop()


@pytest.mark.parametrize("what", ["price", "group", "endpoint"])
async def test_what_costs_nothing_needs_nothing_to_pay_with(what: str) -> None:
    credit = Credit(Bank(a1=0), Billing())
    credit.leasing.start()
    body = post(CHAT, chat(pad="x" * 100_000))
    async with Peer(answer_json) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        if what == "price":
            free = {
                m: replace(p, input=0, output=0, cached_input=0) for m, p in snapshot.prices.items()
            }
            snapshot = replace(snapshot, prices=free)
        elif what == "group":
            free_group = replace(snapshot.groups[1], multiplier_ppm=0)
            snapshot = replace(snapshot, groups={1: free_group})
        else:
            body = post("/v1/responses/input_tokens", {"model": MODEL, "input": "x" * 100_000})
        async with Rig(snapshot, paid_by=[credit]) as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(body[:2000])
            await asyncio.sleep(0.05)
            writer.write(body[2000:])
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
    await credit.leasing.stop()
