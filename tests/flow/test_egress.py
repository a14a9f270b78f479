"""Goal: a channel's own way out is taken: its proxy, its authority, its certificate.

Method: scripted proxies (CONNECT and SOCKS5) in front of a scripted upstream that nobody else can
name; an upstream over TLS under an authority of its own that wants to see a certificate.
"""

import asyncio
import socket
import ssl
from typing import Any

import pytest

from relay.errors import ConnectFailed
from relay.reach import Egress, Reach, check_reach
from relay.upstream.egress import make_context
from tests.flow.rig import Peer, Rig, Script, chat, make_channel, make_snapshot, post
from tests.flow.tls_rig import AUTHORITY, offering, serving

ANSWER = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REPLY % len(ANSWER) + ANSWER)
    await writer.drain()


class Proxy:
    """Speaks CONNECT or SOCKS5 to who comes, and then is the upstream itself."""

    def __init__(self, *, socks: bool, refuses: bool = False) -> None:
        self.socks = socks
        self.refuses = refuses
        self.asked_for: list[bytes] = []
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await (self._socks(reader, writer) if self.socks else self._http(reader, writer))
            if not self.refuses:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                await answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked_for.append(head.partition(b"\r\n")[0])
        said = b"407 Proxy Authentication Required" if self.refuses else b"200 Established"
        writer.write(b"HTTP/1.1 " + said + b"\r\nVia: me\r\n\r\n")

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(3) == b"\x05\x01\x00"
        writer.write(b"\x05\x00")
        assert await reader.readexactly(4) == b"\x05\x01\x00\x03"
        size = (await reader.readexactly(1))[0]
        self.asked_for.append(await reader.readexactly(size + 2))
        reply = 5 if self.refuses else 0
        writer.write(bytes([5, reply, 0, 1, 127, 0, 0, 1, 0, 80]))


async def ask_through(proxy: Proxy, **other: Any) -> bytes:
    """Make a call over a channel behind a proxy; return what the client got."""
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scheme = "socks5" if proxy.socks else "http"
    egress = Egress(proxy=f"{scheme}://127.0.0.1:{port}")
    # A name that only the proxy knows: nobody here may try to resolve it.
    fields = {"base_url": "http://upstream.invalid:8080/v1", "reach": Reach(egress=egress), **other}
    try:
        async with Rig(make_snapshot([make_channel(1, 1, **fields)])) as rig:
            return await rig.say(post("/v1/chat/completions", chat()))
    finally:
        server.close()


@pytest.mark.parametrize("socks", [False, True])
async def test_a_channels_proxy_is_asked_for_its_upstream(*, socks: bool) -> None:
    proxy = Proxy(socks=socks)
    raw = await ask_through(proxy)
    assert raw.startswith(b"HTTP/1.1 200 ") and ANSWER[:9] in raw
    wanted = b"upstream.invalid" + (8080).to_bytes(2, "big")
    http = b"CONNECT upstream.invalid:8080 HTTP/1.1"
    assert proxy.asked_for == [wanted if socks else http]
    (request,) = proxy.requests
    assert b"Host: upstream.invalid:8080\r\n" in request


@pytest.mark.parametrize("socks", [False, True])
async def test_a_proxy_that_refuses_is_a_channel_that_cannot_be_reached(*, socks: bool) -> None:
    proxy = Proxy(socks=socks, refuses=True)
    raw = await ask_through(proxy)
    assert raw.startswith(b"HTTP/1.1 502 ")
    assert b"proxy" not in raw.lower().replace(b"x-accel", b"") or b"127.0.0.1" not in raw
    assert proxy.requests == []


async def test_a_private_authority_and_a_certificate_of_ours_are_taken() -> None:
    seen: list[Any] = []
    wants = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wants.load_cert_chain(AUTHORITY / "good.pem", AUTHORITY / "key.pem")
    wants.load_verify_locations(AUTHORITY / "ca.pem")
    wants.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=wants)
    port = server.sockets[0].getsockname()[1]
    files = {"cert_file": str(AUTHORITY / "good.pem"), "key_file": str(AUTHORITY / "key.pem")}
    egress = Egress(ca_file=str(AUTHORITY / "ca.pem"), **files)
    plain = {"base_url": f"https://localhost:{port}/v1"}
    own = make_channel(1, port, reach=Reach(egress=egress), **plain)
    try:
        async with Rig(make_snapshot([own])) as rig:
            raw = await rig.say(post("/v1/chat/completions", chat()))
            assert raw.startswith(b"HTTP/1.1 200 "), raw
        async with Rig(make_snapshot([make_channel(1, port, **plain)])) as rig:
            raw = await rig.say(post("/v1/chat/completions", chat()))
            assert raw.startswith(b"HTTP/1.1 502 "), "nobody else trusts that authority"
    finally:
        server.close()
    assert len(seen) == 1 and seen[0]["subject"]


@pytest.mark.parametrize("socks", [False, True])
async def test_tls_runs_through_a_proxy_and_is_verified_behind_it(*, socks: bool) -> None:
    """The upstream's name is one that its certificate has, and that only the proxy resolves."""
    asked: list[bytes] = []

    def serve(raw: socket.socket) -> None:
        asked.append(raw.recv(1000))
        if socks:
            raw.sendall(b"\x05\x00")
            asked.append(raw.recv(1000))
            raw.sendall(bytes([5, 0, 0, 1, 127, 0, 0, 1, 0, 80]))
        else:
            raw.sendall(b"HTTP/1.1 200 Established\r\n\r\n")
        with offering().wrap_socket(raw, server_side=True) as sock:
            sock.recv(65_536)
            sock.sendall(REPLY % len(ANSWER) + ANSWER)

    with serving(serve) as port:
        scheme = "socks5" if socks else "http"
        proxy = f"{scheme}://127.0.0.1:{port}"
        egress = Egress(proxy=proxy, ca_file=str(AUTHORITY / "ca.pem"))
        for name, status in ((b"localhost", b"200"), (b"upstream.invalid", b"502")):
            base_url = f"https://{name.decode()}:8443/v1"
            channel = make_channel(1, 1, base_url=base_url, reach=Reach(egress=egress))
            async with Rig(make_snapshot([channel])) as rig:
                raw = await rig.say(post("/v1/chat/completions", chat()))
            assert raw.startswith(b"HTTP/1.1 " + status), raw
            assert name in asked[-1]


async def test_channels_with_and_without_a_proxy_share_no_connection() -> None:
    proxy = Proxy(socks=False)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    egress = Egress(proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    script: Script = answer
    async with Peer(script) as peer:
        near = make_channel(1, peer.port, tier=1)
        far = make_channel(2, peer.port, reach=Reach(egress=egress))
        async with Rig(make_snapshot([near, far])) as rig:
            await rig.say(post("/v1/chat/completions", chat()))
        assert (len(peer.requests), len(proxy.requests)) == (0, 1)
    server.close()


def test_files_that_are_not_there_are_told_of_without_their_names() -> None:
    with pytest.raises(ConnectFailed) as failed:
        make_context(Egress(ca_file="/nowhere/CANARY.pem"))
    assert "CANARY" not in failed.value.message


@pytest.mark.parametrize(
    "egress",
    [
        Egress(proxy="https://p.example:1"),
        Egress(proxy="http://me:secret@p.example:1"),
        Egress(proxy="p.example:1"),
        Egress(key_file="k.pem"),
        Egress(ca_file="a\nb"),
    ],
)
def test_ways_out_that_cannot_be_are_refused(egress: Egress) -> None:
    with pytest.raises(ValueError, match="egress"):
        check_reach(Reach(egress=egress))
