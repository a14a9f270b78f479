"""How the pool comes to a connection: every address of a name, and certificates that are no good.

Method: names are resolved by a table of the test's own; the addresses are all of this machine, and
dead ones are ports that refuse, or that take no more connections.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.config import Timeouts
from relay.errors import CertificateInvalid, ConnectFailed
from relay.upstream.addresses import LOST_S, AddressBook
from relay.upstream.dns import Resolver
from relay.upstream.pool import UpstreamPool
from tests.flow.rig import MODEL, Rig, chat, make_channel, make_snapshot, post

FOLDER = Path(__file__).parent / "authority"
FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Table(Resolver):
    """Names and their addresses, as a test says them."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._addresses = list(addresses)

    async def resolve(self, host: str) -> list[str]:
        assert host == "upstream.test"
        return self._addresses.copy()


@contextlib.asynccontextmanager
async def listening(*addresses: str) -> AsyncIterator[tuple[int, list[str]]]:
    """Listen on one port of some addresses; yield it, and who was connected to, in order."""
    taken: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer.get_extra_info("sockname")[0])
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    first = socket.create_server((addresses[0], 0))
    port = first.getsockname()[1]
    socks = [first, *(socket.create_server((one, port)) for one in addresses[1:])]
    servers = [await asyncio.start_server(serve, sock=sock) for sock in socks]
    try:
        yield port, taken
    finally:
        for server in servers:
            server.close()


@contextlib.contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """Have an address take no connection and refuse none: its queue is full."""
    with socket.socket() as sock, contextlib.ExitStack() as stack:
        sock.bind((address, port))
        sock.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield


async def dial(pool: UpstreamPool, port: int) -> float:
    channel = make_channel(1, port, base_url=f"http://upstream.test:{port}/v1")
    began_s = time.monotonic()
    connection = await pool.dial(channel)
    took_s = time.monotonic() - began_s
    connection.abort()
    await asyncio.sleep(0)
    return took_s


@pytest.mark.parametrize("order", [(SECOND, FIRST), (FIRST, SECOND), (SECOND, THIRD, FIRST)])
async def test_an_address_that_refuses_costs_nothing(order: tuple[str, ...]) -> None:
    async with listening(FIRST) as (port, taken):
        pool = UpstreamPool(Timeouts(), resolver=Table(*order))
        took_s = [await dial(pool, port) for _ in range(5)]
        assert sorted(took_s)[2] < 0.2, took_s  # what is silent would cost 0.25
        assert set(taken) == {FIRST}


async def test_an_address_that_is_silent_costs_a_quarter_of_a_second_once() -> None:
    async with listening(FIRST) as (port, _):
        with silent(SECOND, port):
            pool = UpstreamPool(Timeouts(), resolver=Table(SECOND, FIRST))
            assert 0.2 < await dial(pool, port) < 2.5
            took_s = [await dial(pool, port) for _ in range(5)]
            assert sorted(took_s)[2] < 0.2, took_s


async def test_of_two_dead_addresses_the_failure_is_told_in_time() -> None:
    async with listening(FIRST) as (port, _):
        with silent(SECOND, port), silent(THIRD, port):
            pool = UpstreamPool(Timeouts(connect_s=0.8), resolver=Table(SECOND, THIRD))
            with pytest.raises(ConnectFailed, match="in time"):
                await dial(pool, port)


async def test_when_all_refuse_that_is_said() -> None:
    async with listening(FIRST) as (port, _):
        pool = UpstreamPool(Timeouts(), resolver=Table(SECOND, THIRD))
        with pytest.raises(ConnectFailed, match="could not be reached"):
            await dial(pool, port)


async def test_the_other_family_is_asked_where_one_leads_nowhere() -> None:
    async with listening(FIRST) as (port, taken):
        pool = UpstreamPool(Timeouts(), resolver=Table("::1", FIRST))
        assert await dial(pool, port) < 2.0
        assert taken == [FIRST]


async def test_localhost_is_both_families() -> None:
    assert await Resolver().resolve("localhost") == ["127.0.0.1", "::1"]
    assert await Resolver().resolve("::1") == ["::1"]


async def test_good_addresses_are_used_in_turn_as_they_come() -> None:
    async with listening(FIRST, SECOND) as (port, taken):
        for order in ((FIRST, SECOND), (SECOND, FIRST)):
            await dial(UpstreamPool(Timeouts(), resolver=Table(*order)), port)
        async with asyncio.timeout(5):
            while len(taken) < 2:
                await asyncio.sleep(0.005)
        assert taken == [FIRST, SECOND]


def test_what_lost_comes_last_for_a_while() -> None:
    book = AddressBook()
    book.note_lost(["a", "b"], 0.0)
    assert book.order(["a", "b", "c"], 1.0) == ["c", "a", "b"]
    book.note_good("b")
    assert book.order(["a", "b", "c"], 1.0) == ["b", "c", "a"]
    assert book.order(["a", "b", "c"], LOST_S + 1) == ["a", "b", "c"]
    for n in range(5000):
        book.note_lost([str(n)], 0.0)
    assert book.order(["4999", "x"], 1.0) in (["x", "4999"], ["4999", "x"])


# --- certificates ---------------------------------------------------------------------------------


def served(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(FOLDER / certificate, FOLDER / "key.pem")
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=FOLDER / "ca.pem")


@contextlib.asynccontextmanager
async def speaking_tls(certificate: str) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, FIRST, 0, ssl=served(certificate))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


FLAWS = [
    ("expired.pem", "expired", "has expired"),
    ("early.pem", "not_yet_valid", "not valid yet"),
    ("other_host.pem", "wrong_host", "for another host name"),
    ("self_signed.pem", "self_signed", "signed by nobody but itself"),
    ("good.pem", "unknown_ca", "authority"),
]


@pytest.mark.parametrize(("certificate", "flaw", "words"), FLAWS)
async def test_what_is_wrong_with_a_certificate_is_said(
    certificate: str, flaw: str, words: str
) -> None:
    async with speaking_tls(certificate) as port:
        trust = ssl.create_default_context() if flaw == "unknown_ca" else trusting()
        pool = UpstreamPool(Timeouts(), trust)
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        with pytest.raises(CertificateInvalid, match=words) as caught:
            await pool.dial(channel)
        assert (caught.value.code, caught.value.flaw) == ("upstream_certificate", flaw)


async def test_an_address_in_place_of_a_name_is_another_host_too() -> None:
    async with speaking_tls("other_host.pem") as port:
        channel = make_channel(1, port, base_url=f"https://127.0.0.1:{port}/v1")
        with pytest.raises(CertificateInvalid, match="another address"):
            await UpstreamPool(Timeouts(), trusting()).dial(channel)


async def test_a_good_certificate_is_taken() -> None:
    async with speaking_tls("good.pem") as port:
        pool = UpstreamPool(Timeouts(), trusting())
        connection = await pool.dial(make_channel(1, port, base_url=f"https://localhost:{port}/v1"))
        assert connection.usable
        pool.close()


async def test_the_next_address_is_asked_where_one_does_not_speak_tls() -> None:
    """The first address takes connections and then says nothing: half the time is another's."""
    async with speaking_tls("good.pem") as port:
        gone = asyncio.Event()

        async def hush(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            gone.set()

        silence = await asyncio.start_server(hush, SECOND, port)
        channel = make_channel(1, port, base_url=f"https://upstream.test:{port}/v1")
        pool = UpstreamPool(Timeouts(connect_s=1.0), trusting(), Table(SECOND, FIRST))
        with pytest.raises(CertificateInvalid, match="another host"):  # it is for localhost
            await pool.dial(channel)
        async with asyncio.timeout(2):
            await gone.wait()  # the connection that was given up is closed
        silence.close()


async def test_a_call_s_record_says_which_certificate_fault_it_was() -> None:
    async with speaking_tls("good.pem") as port:
        channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
        async with Rig(make_snapshot([channel])) as rig:
            raw = await rig.say(post("/v1/chat/completions", chat(model=MODEL)))
            (end,) = await rig.ended()
    assert raw.startswith(b"HTTP/1.1 502 ")
    assert b"certificate comes " in raw
    assert [one.outcome for one in end.tries] == ["certificate_unknown_ca"]
