"""Goal: the door refuses whom it should, at once and on open connections; others are served.

Method: a data plane with real sockets; clients from addresses of the loopback network, with wrong
keys and good ones, lists that are swapped while connections are open, many connections at once.
"""

import asyncio
import logging
import socket
from ipaddress import ip_network

import msgspec
import pytest

from relay.config import Config
from relay.config import Server as ServerConfig
from relay.door_rules import DoorRules
from relay.edge.shutter import DIALS_MAX, Shutter
from relay.limits.addresses import Rule, rule_code
from relay.model import Block
from tests.flow.rig import KEY, Peer, Rig, chat, make_channel, make_snapshot, post

RULES = DoorRules(wrong_keys_max=3, wrong_keys_refused=8, refused_s=30.0)
OTHER = "127.0.0.7"
W_CODE = rule_code(Rule.WRONG_KEYS, OTHER)


async def answer_json(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )


def rig_of(peer: Peer, rules: DoorRules = RULES, *blocks: Block, **server: object) -> Rig:
    config = msgspec.structs.replace(Config(), door=rules, server=ServerConfig(**server))  # type: ignore[arg-type]
    snapshot = make_snapshot([make_channel(1, peer.port)])
    return Rig(msgspec.structs.replace(snapshot, blocks=tuple(blocks)), config)


class Client:
    """One connection from an address."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(
        self, key: str = KEY, *headers: str, path: str = "/v1/chat/completions"
    ) -> tuple[int, bytes]:
        """Return status and body; 0 where the connection ended."""
        raw = post(path, chat(), *headers, key=key)
        self.writer.write(raw.replace(b"Connection: close\r\n", b""))
        try:
            async with asyncio.timeout(10):
                head = await self.reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                return int(head[9:12]), await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""


class Crowd:
    """Connections of a test, which end with it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._clients: list[Client] = []

    async def __aenter__(self) -> "Crowd":
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.writer.transport.abort()
        await asyncio.sleep(0)

    async def leave(self, client: Client) -> None:
        self._clients.remove(client)
        client.writer.transport.abort()
        await asyncio.sleep(0.05)

    async def connect(self, ip: str = OTHER) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((ip, 0))
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._rig.port))
        except BaseException:
            sock.close()
            raise
        client = Client(*await asyncio.open_connection(sock=sock))
        self._clients.append(client)
        return client


async def test_wrong_keys_are_throttled_then_refused_and_good_keys_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Peer(answer_json) as peer, rig_of(peer) as rig, Crowd(rig) as crowd:
        good, neighbour = await crowd.connect(), await crowd.connect("127.0.0.8")
        assert (await good.ask())[0] == 200
        with caplog.at_level(logging.WARNING, "relay.edge"):
            statuses = []
            for _ in range(10):
                client = await crowd.connect()
                status, body = await client.ask("relay_wrong")
                statuses.append(status)
                client.writer.close()
        assert statuses == [401] * 3 + [429] * 5 + [403] * 2
        assert msgspec.json.decode(body)["error"]["code"] == W_CODE
        # Nobody else feels it, and neither does who has a good key at the same address.
        assert (await good.ask())[0] == 200
        assert (await neighbour.ask("relay_wrong"))[0] == 401
        assert (await neighbour.ask())[0] == 200
        told = [record for record in caplog.records if "refused" in record.getMessage()]
        assert [(one.code, one.address) for one in told] == [(W_CODE, OTHER)]  # type: ignore[attr-defined]
        # A new connection of the refused address waits for a second, and is served then.
        begun_s = asyncio.get_running_loop().time()
        late = await crowd.connect()
        await asyncio.sleep(0.05)  # its bytes come after it was held
        assert (await late.ask())[0] == 200
        assert asyncio.get_running_loop().time() - begun_s > 0.9


async def test_a_refused_address_has_few_connections() -> None:
    async with Peer(answer_json) as peer, rig_of(peer) as rig, Crowd(rig) as crowd:
        first = await crowd.connect()
        for _ in range(9):
            await (await crowd.connect()).ask("relay_wrong")
        many = [await crowd.connect() for _ in range(100)]
        async with asyncio.timeout(5):
            while sum(client.reader.at_eof() for client in many) < 30:
                await asyncio.sleep(0.01)
        assert (await first.ask())[0] == 200


async def test_an_address_that_tries_keys_and_dials_on_is_shut_out_for_a_moment() -> None:
    async with Peer(answer_json) as peer, rig_of(peer) as rig, Crowd(rig) as crowd:
        first = await crowd.connect()
        for _ in range(9):
            await (await crowd.connect()).ask("relay_wrong")
        dialed = 0
        with pytest.raises(TimeoutError):
            while dialed < 1_000:
                async with asyncio.timeout(0.5):
                    await crowd.connect()
                dialed += 1
        # The kernel drops its SYNs; they cost nobody here anything, and others get in.
        assert DIALS_MAX // 2 <= dialed < 3 * DIALS_MAX
        assert (await first.ask())[0] == 200
        neighbour = await crowd.connect("127.0.0.8")
        assert (await neighbour.ask())[0] == 200
        # Its client comes back a second later by itself, and is served if it has a good key.
        await crowd.leave(first)
        begun_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(8):
            while (await (await crowd.connect()).ask())[0] != 200:
                await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - begun_s > 0.2


async def test_the_shutter_is_open_again_when_its_worker_goes() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    shutter, successor = Shutter(), Shutter()
    shutter.watch(listener)
    for _ in range(DIALS_MAX):
        shutter.note_dial(OTHER)
    assert not await reaches(listener)
    shutter.stop()
    assert await reaches(listener)
    # One that was killed leaves its socket, and what is on it, to the next.
    shutter.watch(listener)
    for _ in range(DIALS_MAX):
        shutter.note_dial(OTHER)
    assert not await reaches(listener)
    successor.watch(listener)
    assert await reaches(listener)
    shutter.stop()
    listener.close()


async def reaches(listener: socket.socket) -> bool:
    """Tell whether OTHER can connect within a moment."""
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind((OTHER, 0))
        try:
            async with asyncio.timeout(0.3):
                await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
        except TimeoutError:
            return False
        return True


async def test_a_list_holds_at_once_on_open_connections_and_paths() -> None:
    async with Peer(answer_json) as peer, rig_of(peer) as rig, Crowd(rig) as crowd:
        client, other = await crowd.connect(), await crowd.connect("127.0.0.8")
        assert (await client.ask())[0] == 200
        blocks = (
            Block(id=5, network=ip_network("127.0.0.0/29")),
            Block(id=6, path="/v1/images"),
        )
        rig.server.swap(msgspec.structs.replace(rig.snapshot, blocks=blocks))
        status, body = await client.ask()
        assert status == 403
        assert msgspec.json.decode(body)["error"]["code"] == "B-5"
        assert (await client.ask("relay_wrong"))[0] == 403
        assert (await other.ask())[0] == 200
        # Who has a key finds the code in the log of its calls.
        assert [end.error_code for end in await rig.ended(3)].count("B-5") == 1
        raw = post("/v1/images/generations", {"model": "m", "prompt": "x"})
        assert b'"code":"B-5"' in await rig.say(raw)
        assert b'"code":"B-6"' in (await other.ask(path="/v1/images/generations"))[1]
        allowed = (*blocks, Block(id=7, network=ip_network("127.0.0.7/32"), allow=True))
        rig.server.swap(msgspec.structs.replace(rig.snapshot, blocks=allowed))
        assert (await client.ask())[0] == 200
        rig.server.swap(rig.snapshot)
        assert (await client.ask())[0] == 200


async def test_requests_and_connections_of_an_address_are_bounded() -> None:
    rules = DoorRules(rpm=60, connections_max=2)
    async with Peer(answer_json) as peer, rig_of(peer, rules) as rig, Crowd(rig) as crowd:
        client = await crowd.connect()
        found = [await client.ask() for _ in range(8)]
        assert [status for status, _ in found][:6] == [200] * 6
        assert found[-1][0] == 429
        assert msgspec.json.decode(found[-1][1])["error"]["code"].startswith("R-")
        assert (await (await crowd.connect("127.0.0.8")).ask())[0] == 200
        second, third = await crowd.connect(), await crowd.connect()
        assert (await third.ask())[0] == 0
        assert (await second.ask())[0] == 429


async def test_behind_a_trusted_proxy_its_clients_are_counted_and_not_it() -> None:
    async with (
        Peer(answer_json) as peer,
        rig_of(peer, RULES, trusted_proxies=["127.0.0.0/8"]) as rig,
        Crowd(rig) as crowd,
    ):
        proxy = await crowd.connect("127.0.0.2")
        for _ in range(9):
            status, _ = await proxy.ask("relay_wrong", "X-Forwarded-For: 203.0.113.9")
        assert status == 403
        assert (await proxy.ask("relay_wrong", "X-Forwarded-For: 203.0.113.10"))[0] == 401
        assert (await proxy.ask(KEY, "X-Forwarded-For: 203.0.113.10"))[0] == 200
