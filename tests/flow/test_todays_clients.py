"""Goal: browsers, balancers and agents of today find what they look for. Method: their requests."""

import asyncio
import gzip
import importlib
import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import pytest
import zstandard

from relay.config import Config, Server
from tests.flow.rig import KEY, Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import AUTH, CHAT, answer_json, get, read

brotli: Any = importlib.import_module("brotli")  # it comes without types

PAGE = "https://chat.example.org"


def fields(raw: bytes) -> dict[str, str]:
    lines = raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def status(raw: bytes) -> int:
    return int(raw.split()[1])


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([], PAGE, None),
        ([PAGE], PAGE, PAGE),
        ([PAGE], "https://evil.example.org", None),
        ([PAGE], PAGE + ":444", None),
        ([PAGE], "null", None),
        (["*"], PAGE, "*"),
        ([PAGE, "http://localhost:3000"], "http://localhost:3000", "http://localhost:3000"),
    ],
)
async def test_pages_of_chosen_origins_may_call(
    origins: list[str], origin: str, allowed: str | None
) -> None:
    config = Config(server=Server(cors_origins=origins))
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)]), config) as rig,
    ):
        asks = get(
            CHAT,
            f"Origin: {origin}",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,content-type,x-stainless-os",
            method="OPTIONS",
        )
        answer = await rig.say(asks)
        assert (status(answer) == 200) is bool(allowed)
        found = fields(answer)
        assert found.get("access-control-allow-origin") == allowed
        if allowed:
            assert "POST" in found["access-control-allow-methods"]
            assert "authorization" in found["access-control-allow-headers"]
            assert (found.get("vary") == "Origin") is (allowed != "*")
        # Answers and errors alike, on one connection and not mixed up with others of it.
        call = post(CHAT, chat(), f"Origin: {origin}").replace(b"Connection: close\r\n", b"")
        bad = call.replace(KEY.encode(), b"relay_test-bad")
        plain = post(CHAT, chat()).replace(b"Connection: close\r\n", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for raw, code in ((call, 200), (call, 200), (bad, 401), (plain, 200), (plain, 200)):
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            found = fields(head)
            await reader.readexactly(int(found["content-length"]))
            assert status(head) == code
            expected = None if raw is plain else allowed
            assert found.get("access-control-allow-origin") == expected
            assert ("access-control-expose-headers" in found) is bool(expected)
        writer.close()
        models = fields(await rig.say(get("/v1/models", AUTH, f"Origin: {origin}")))
        assert models.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/api/hello", "/healthz?full=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_asks_whether_we_live_needs_no_key(path: str, method: str) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        assert status(await rig.say(get(path, method=method))) == 200
        assert status(await rig.say(get(path, method="DELETE"))) == 405


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_balancer_hears_where_calls_are_taken(method: str) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        assert status(await rig.say(get("/readyz", method=method))) == 200
        rig.journal.healthy = False
        assert status(await rig.say(get("/readyz", method=method))) == 503
        assert status(await rig.say(get("/healthz", method=method))) == 200
        rig.journal.healthy = True
        assert status(await rig.say(get("/readyz", method=method))) == 200


@pytest.mark.parametrize(
    ("method", "path", "code", "word"),
    [
        ("POST", "/v1beta/models/gemini-2.5-pro:predictLongRunning", 404, "streamGenerate"),
        ("POST", "/v1/models/gemini-2.5-pro:predict", 404, "generateContent"),
        ("GET", "/v1beta/models/gemini-2.5-pro:generateContent", 405, "Use POST"),
        ("POST", "/v1/models/gpt-test", 405, "read with GET"),
        ("OPTIONS", "/v1/models", 405, "read with GET"),
        ("OPTIONS", CHAT, 405, "Use POST"),
        ("GET", CHAT, 405, "Use POST"),
        ("CONNECT", "example.org:443", 404, "serves"),
        ("GET", "/v1/engines", 404, "serves"),
    ],
)
async def test_the_words_say_what_is_served(method: str, path: str, code: int, word: str) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        found, _, body = read(await rig.say(get(path, AUTH, method=method)))
        assert found == code
        assert word in body["error"]["message"]


async def test_every_answer_says_when_it_was_made() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        for raw in (
            post(CHAT, chat()),
            post(CHAT, chat(), key="relay_x"),
            get("/nope"),
            get("/", method="HEAD"),
            get("/v1/models", AUTH),
            b"no request\r\n\r\n",
        ):
            made = parsedate_to_datetime(fields(await rig.say(raw))["date"])
            assert abs((datetime.now(UTC) - made).total_seconds()) < 4


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity"])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_an_encoded_body_is_served_as_if_it_were_none(encoding: str, size: int) -> None:
    encode = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": brotli.compress,
        "zstd": zstandard.compress,
        "identity": bytes,
    }[encoding]
    plain = msgspec.json.encode(chat(user="x" * size))
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        body = encode(plain)
        for raw in (post(CHAT, body, f"Content-Encoding: {encoding}"),) * 2:
            assert status(await rig.say(raw)) == 200
        assert b"x" * size in peer.requests[0] and b"ncoding: " + encoding.encode() not in (
            peer.requests[0].replace(b"Accept-Encoding", b"").lower()
        )
        # And a plain one behind it, on the same connection.
        both = post(CHAT, body, f"Content-Encoding: {encoding}")
        both = both.replace(b"Connection: close\r\n", b"") + post(CHAT, chat())
        assert (await rig.say(both)).count(b"HTTP/1.1 200 OK") == 2
        assert rig.server.counters.inflight == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_a_bomb_is_too_large_and_holds_nobody_up(encoding: str) -> None:
    encode = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}[encoding]
    bomb = encode(b'{"a":"' + b"x" * (64 * 2**20))
    config = Config(server=Server(body_bytes_max=8 * 2**20))
    async with Rig(make_snapshot([make_channel(1, 1)]), config) as rig:
        asked = asyncio.ensure_future(rig.say(post(CHAT, bomb, f"Content-Encoding: {encoding}")))
        turns = 0
        while not asked.done():
            assert status(await rig.say(get("/", method="HEAD"))) == 200
            turns += 1
        assert status(await asked) == 413 and turns > 3
