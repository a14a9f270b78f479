"""What upstreams say of their own quota is heeded: when to come back, and that it is used up.

Method: an upstream that says exactly these headers beside one that says nothing; looked at is who
is asked next.
"""

import asyncio

import pytest

from relay.clock import now_us
from relay.config import Config, Switching
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition
from relay.routing.policy import Policy, Reason
from tests.flow.rig import (
    DONE,
    FINISH,
    SSE_HEAD,
    Peer,
    Rig,
    Script,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)

CHAT = "/v1/chat/completions"
BODY = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
DATE = b"Date: Wed, 14 Oct 2026 17:46:40 GMT"


def saying(status: bytes, *headers: bytes) -> Script:
    """Return a script that answers with this status and these headers."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [b"HTTP/1.1 " + status, b"Content-Type: application/json", *headers]
        lines.append(b"Content-Length: %d\r\n\r\n" % len(BODY))
        writer.write(b"\r\n".join(lines) + BODY)
        await writer.drain()

    return script


def standing(*peers: Peer, config: Config | None = None) -> Rig:
    channels = [make_channel(n, peer.port, tier=n) for n, peer in enumerate(peers, 1)]
    return Rig(make_snapshot(channels), config)


async def call(rig: Rig) -> bytes:
    return (await rig.say(post(CHAT, chat())))[9:12]


def condition(rig: Rig) -> Condition:
    (found,) = rig.server.engine.balancer.health.describe(now_us())
    return found


USED_UP = [
    (b"x-ratelimit-remaining-requests: 0", b"x-ratelimit-reset-requests: 8s"),
    (b"x-ratelimit-reset-tokens: 0m8s", b"x-ratelimit-remaining-tokens: 0"),
    (
        b"anthropic-ratelimit-tokens-remaining: 0",
        b"anthropic-ratelimit-tokens-reset: 2026-10-14T17:46:48Z",
        DATE,
    ),
]


@pytest.mark.parametrize("headers", USED_UP)
async def test_a_channel_whose_quota_is_used_up_is_left_alone_before_it_refuses(
    headers: tuple[bytes, ...],
) -> None:
    async with (
        Peer(saying(b"200 OK", *headers)) as spent,
        Peer(saying(b"200 OK")) as other,
        standing(spent, other) as rig,
    ):
        assert await call(rig) == b"200"
        found = condition(rig)
        assert (found.state, found.reason) == (BreakerState.OPEN, Reason.LIMITED)
        assert 7.0 < found.trial_in_s < 9.0
        assert await call(rig) == b"200"
        assert (len(spent.requests), len(other.requests)) == (1, 1)


async def test_the_same_for_a_stream() -> None:
    head = SSE_HEAD.replace(b"\r\n\r\n", b"\r\n" + b"\r\n".join(USED_UP[0]) + b"\r\n\r\n")

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + chunked(event("ok") + FINISH + DONE) + b"0\r\n\r\n")
        await writer.drain()

    async with Peer(script) as spent, Peer(script) as other, standing(spent, other) as rig:
        assert (await rig.say(post(CHAT, chat(stream=True)))).startswith(b"HTTP/1.1 200")
        assert condition(rig).reason is Reason.LIMITED


@pytest.mark.parametrize(
    "headers",
    [
        (b"x-ratelimit-remaining-requests: 0",),
        (b"x-ratelimit-remaining-requests: 0", b"x-ratelimit-reset-requests: soon"),
        (b"x-ratelimit-remaining-requests: 1", b"x-ratelimit-reset-requests: 8s"),
        (b"x-cache-age: 0",),
    ],
)
async def test_what_says_nothing_changes_nothing(headers: tuple[bytes, ...]) -> None:
    async with Peer(saying(b"200 OK", *headers)) as peer, standing(peer, peer) as rig:
        assert await call(rig) == b"200"
        assert not rig.server.engine.balancer.health.troubled


async def test_no_header_takes_a_channel_out_for_long_nor_a_model_from_its_last_one() -> None:
    long = (b"x-ratelimit-remaining-requests: 0", b"x-ratelimit-reset-requests: 9000h")
    async with Peer(saying(b"200 OK", *long)) as only, standing(only) as rig:
        for _ in range(3):
            assert await call(rig) == b"200"
        assert condition(rig).trial_in_s <= 1.1 * Policy().spent_s_max


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (b"429 No", (b"Retry-After: 8",)),
        (b"429 No", (b"Retry-After: Wed, 14 Oct 2026 17:46:48 GMT", DATE)),
        (b"429 No", USED_UP[0]),
        (b"503 No", (b"Retry-After: Wed, 14 Oct 2026 17:46:48 GMT", DATE)),
        (b"529 No", (b"Retry-After-Ms: 8000",)),
    ],
)
async def test_a_refusal_that_names_a_time_is_believed(
    status: bytes, headers: tuple[bytes, ...]
) -> None:
    async with (
        Peer(saying(status, *headers)) as limited,
        Peer(saying(b"200 OK")) as other,
        standing(limited, other) as rig,
    ):
        assert await call(rig) == await call(rig) == b"200"
        assert len(limited.requests) == 1
        found = condition(rig)
        assert found.reason is Reason.LIMITED
        assert 7.0 < found.trial_in_s < 9.0


@pytest.mark.parametrize("switches", [True, False])
async def test_404_is_whose_fault_configuration_says(switches: bool) -> None:
    config = Config(switching=Switching(model_gone_switches=switches))
    async with (
        Peer(saying(b"404 No")) as lacking,
        Peer(saying(b"200 OK")) as other,
        standing(lacking, other, config=config) as rig,
    ):
        assert await call(rig) == (b"200" if switches else b"404")
        assert len(other.requests) == switches
        assert not rig.server.engine.balancer.health.troubled
        (end,) = await rig.ended()
        assert end.reason == ("completed" if switches else "upstream_rejected")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nOK",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 OK\r\nContent-Type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nupstream!",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[{}]",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99000\r\n\r\n"
        + b"x" * 99_000,
    ],
)
async def test_a_good_status_without_a_json_object_is_no_answer(answer: bytes) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async with (
        Peer(script) as odd,
        Peer(saying(b"200 OK")) as other,
        standing(odd, other) as rig,
    ):
        said = await rig.say(post(CHAT, chat()))
        assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(BODY)
        (end,) = await rig.ended()
        assert (end.channel_id, end.attempts, end.output_tokens) == (2, 2, 1)
