"""Goal: one customer's request never changes what another customer gets, and its own error is told.

Method: upstreams that say exactly these refusals beside one that is well; looked at are what the
client reads, who else was asked, and the channels' health afterwards.
"""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from relay.clock import now_us
from relay.flow.balancer import FORBIDDEN_MIN
from relay.model import Account, Key, Snapshot
from relay.routing.policy import Reason
from relay.wire.api_keys import digest
from tests.flow.rig import (
    KEY,
    MODEL,
    PEPPER,
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
GOOD = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
OTHER_KEY = "relay_other-key"


def saying(status: int, body: bytes | dict[str, Any], *headers: bytes) -> Script:
    """Return a script that answers with this status and this body."""
    said = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = b"text/html" if said[:1] == b"<" else b"application/json"
        lines = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, *headers]
        lines.append(b"Content-Length: %d\r\n\r\n" % len(said))
        writer.write(b"\r\n".join(lines) + said)
        await writer.drain()

    return script


def streaming(raw: bytes) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + raw)
        await writer.drain()

    return script


def two_accounts(*peers: Peer) -> Snapshot:
    """Return a catalog whose channels are asked in the order of the peers, by two accounts."""
    channels = [make_channel(n, peer.port, tier=n) for n, peer in enumerate(peers, 1)]
    snapshot = make_snapshot(channels)
    other = Key(id=2, account_id=2, name="o", digest=digest(PEPPER, OTHER_KEY), last4="-key")
    snapshot.keys[other.digest] = other
    snapshot.accounts[2] = Account(id=2, name="other", group_id=1)
    return snapshot


async def ask(rig: Rig, key: str = KEY, **fields: Any) -> tuple[int, dict[str, Any], bytes]:
    """Return status, body and head of an answer."""
    raw = await rig.say(post(CHAT, chat(**fields), key=key))
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body), head


def conditions(rig: Rig) -> list[tuple[int, str, Reason]]:
    health = rig.server.engine.balancer.health
    return [(c.channel_id, c.model, c.reason) for c in health.describe(now_us())]


FLAGGED = {
    "error": {
        "message": "Your chosen model requires moderation and your input was flagged",
        "code": 403,
        "metadata": {"reasons": ["violence"], "flagged_input": "CANARY"},
    },
    "user_id": "user_2abcdefghijklmnop",
}


async def test_what_moderation_does_not_like_is_told_after_one_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        Peer(saying(403, FLAGGED)) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        for _ in range(5):
            status, body, head = await ask(rig)
            assert (status, body["error"]) == (403, FLAGGED["error"])
            assert body["user_id"] == "[...]"
            assert b"\r\nx-request-id: req_" in head
        assert len(first.requests) == 5 and not second.requests
        assert conditions(rig) == []
        ends = await rig.ended(5)
        assert {end.reason for end in ends} == {"upstream_rejected"}
        assert "CANARY" not in caplog.text + repr(rig.journal.ends)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Attention Required!</html>",
        b"Forbidden",
        b'{"type":"error","error":{"type":"permission_error","message":"Not this model."}}',
    ],
)
async def test_an_unexplained_403_asks_one_other_channel_and_harms_none(body: bytes) -> None:
    async with (
        Peer(saying(403, body)) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        for _ in range(5):
            status, _, _ = await ask(rig)
            assert status == 200
        assert len(first.requests) == len(second.requests) == 5
        assert conditions(rig) == []


async def test_no_third_channel_is_asked_where_two_forbid() -> None:
    async with (
        Peer(saying(403, b"")) as first,
        Peer(saying(403, b"<html>")) as second,
        Peer(saying(200, GOOD)) as third,
        Rig(two_accounts(first, second, third)) as rig,
    ):
        status, body, head = await ask(rig)
        assert (status, body["error"]["code"]) == (403, "upstream_forbidden")
        assert b"x-should-retry: false" in head
        assert not third.requests and conditions(rig) == []


async def test_a_second_account_is_a_witness_against_one_model_only() -> None:
    async with (
        Peer(saying(403, b"")) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        for key in (KEY, OTHER_KEY, KEY, OTHER_KEY):
            assert (await ask(rig, key))[0] == 200
        assert conditions(rig) == [(1, MODEL, Reason.FAILING)]


class ChoosingPeer(Peer):
    """An upstream whose script depends on the request."""

    def __init__(self, choose: Callable[[bytes], Script]) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await choose(self.requests[-1])(reader, writer)

        super().__init__(script)


def listing(status: int, body: bytes = b"") -> ChoosingPeer:
    """Return an upstream that forbids all calls without a word, and lists its models so."""

    def choose(request: bytes) -> Script:
        asked_list = request.startswith(b"GET /v1/models ")
        return saying(status, body) if asked_list else saying(403, b"")

    return ChoosingPeer(choose)


SCOPE = b'{"error":{"message":"You have insufficient permissions. Missing scopes: api.model.read"}}'


@pytest.mark.parametrize(
    ("status", "body", "out"),
    [
        (401, b"", True),
        (403, b"", True),
        (403, b"<html>Forbidden</html>", True),
        (400, b'{"error":{"code":"account_deactivated","message":"It is."}}', True),
        (403, SCOPE, False),
        (200, b'{"data":[]}', False),
        (404, b"", False),
        (500, b"", False),
        (429, b"", False),
    ],
)
async def test_after_eight_bare_403s_a_list_without_a_prompt_is_the_second_witness(
    status: int, body: bytes, out: bool
) -> None:
    async with (
        listing(status, body) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        for _ in range(FORBIDDEN_MIN - 1):
            assert (await ask(rig))[0] == 200
        assert [one for one in first.requests if one.startswith(b"GET")] == []
        for _ in range(4):
            assert (await ask(rig))[0] == 200
            await asyncio.sleep(0.02)
        lists: list[bytes] = []
        async with asyncio.timeout(5):
            while not lists or (out and not conditions(rig)):
                await asyncio.sleep(0.01)
                lists = [one for one in first.requests if one.startswith(b"GET")]
        assert len(lists) == 1 and b"Bearer sk-upstream-1" in lists[0]
        assert conditions(rig) == ([(1, "", Reason.DENIED)] if out else [])


async def test_a_channel_that_serves_anybody_in_between_is_not_asked() -> None:
    turn = itertools.count()

    def choose(_: bytes) -> Script:
        return saying(200, GOOD) if next(turn) % FORBIDDEN_MIN == 6 else saying(403, b"")

    async with (
        ChoosingPeer(choose) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        for _ in range(3 * FORBIDDEN_MIN):
            assert (await ask(rig))[0] == 200
        assert [one for one in first.requests if one.startswith(b"GET")] == []
        assert conditions(rig) == []


async def test_a_credentials_own_words_take_its_channel_out_at_once() -> None:
    dead = {"message": "The security token included in the request is invalid."}
    async with (
        Peer(saying(403, dead)) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        assert [(await ask(rig))[0] for _ in range(3)] == [200, 200, 200]
        assert len(first.requests) == 1
        assert conditions(rig) == [(1, "", Reason.DENIED)]


@pytest.mark.parametrize(
    "status", [405, 407, 408, 410, 421, 424, 425, 426, 460, 498, 499, 501, 529]
)
async def test_statuses_that_blame_no_client_switch(status: int) -> None:
    async with (
        Peer(saying(status, b"{}")) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        assert (await ask(rig))[0] == 200
        assert len(first.requests) == len(second.requests) == 1
        assert conditions(rig) == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b""),
        (400, b'{"error":{"message":"The model x does not exist","code":"model_not_found"}}'),
        (405, b""),
    ],
)
async def test_a_model_that_no_channel_has_is_a_404(status: int, body: bytes) -> None:
    async with (
        Peer(saying(status, body)) as first,
        Peer(saying(404, b"{}")) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        told, said, head = await ask(rig)
        assert (told, said["error"]["code"]) == (404, "model_not_found")
        assert b"x-should-retry: false" in head
        assert len(first.requests) == len(second.requests) == 1
        assert conditions(rig) == []


async def test_a_model_that_one_channel_lacks_while_another_fails_is_no_404() -> None:
    async with (
        Peer(saying(404, b"")) as first,
        Peer(saying(500, b"{}")) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        assert (await ask(rig))[0] == 502


async def test_a_rejection_reaches_its_client_word_for_word() -> None:
    body = (
        b'{"error": {"message": "Unsupported value: \'temperature\' \\u2014 no.", "type": "x",\n'
        b'  "param": "messages[0].content", "code": "unsupported_value"}}'
    )
    async with Peer(saying(400, body)) as peer, Rig(two_accounts(peer)) as rig:
        raw = await rig.say(post(CHAT, chat()))
        assert raw.startswith(b"HTTP/1.1 400 ") and raw.endswith(b"\r\n\r\n" + body)
        (end,) = await rig.ended()
        assert (end.status, end.error_code) == (400, "unsupported_value")
        assert "temperature" not in repr(end)


async def test_our_identity_is_taken_out_of_a_rejection() -> None:
    peers: list[Peer] = []

    async def indiscreet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = f"no sk-upstream-1 of org-abcdef123456 at 127.0.0.1:{peers[0].port}"
        await saying(400, {"error": {"message": said, "code": "bad"}})(reader, writer)

    async with Peer(indiscreet) as peer, Rig(two_accounts(peer)) as rig:
        peers.append(peer)
        _, body, _ = await ask(rig)
        assert body["error"]["message"] == "no [...] of [...] at [...]"


async def test_what_another_account_keeps_is_asked_for_once_more_then_told() -> None:
    lost = {"error": {"message": "Not found.", "code": "previous_response_not_found"}}
    async with (
        Peer(saying(400, lost)) as first,
        Peer(saying(400, lost)) as second,
        Peer(saying(200, GOOD)) as third,
        Rig(two_accounts(first, second, third)) as rig,
    ):
        status, body, _ = await ask(rig)
        assert (status, body) == (400, lost)
        assert len(second.requests) == 1 and not third.requests and conditions(rig) == []


@pytest.mark.parametrize(
    ("code", "param"),
    [
        ("content_filter", None),
        ("content_policy_violation", None),
        ("context_length_exceeded", "messages"),
        ("invalid_prompt", "messages"),
        ("string_above_max_length", "messages[0].content"),
    ],
)
async def test_content_filtered_inside_a_200_is_the_clients_400(
    code: str, param: str | None
) -> None:
    body = {"error": {"message": "Filtered.", "code": code, "param": param}}
    async with (
        Peer(saying(200, body)) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        status, said, _ = await ask(rig)
        assert (status, said["error"]["code"], said["error"]["param"]) == (400, code, param)
        assert said["error"]["message"].startswith("Filtered.")
        assert not second.requests and conditions(rig) == []


@pytest.mark.parametrize("code", ["server_error", "overloaded", "rate_limit_exceeded", None, 500])
async def test_any_other_error_inside_a_200_is_the_channels(code: object) -> None:
    body = {"error": {"message": "Oops.", "code": code}}
    async with (
        Peer(saying(200, body)) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        assert (await ask(rig))[0] == 200
        assert len(second.requests) == 1


async def test_a_stream_that_begins_with_the_clients_fault_is_its_400() -> None:
    said = (
        b'data: {"error":{"message":"Too long: 9 > 8 tokens","code":"context_length_exceeded"}}\n\n'
    )
    async with Peer(streaming(chunked(said))) as peer, Rig(two_accounts(peer)) as rig:
        status, body, _ = await ask(rig, stream=True)
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        assert body["error"]["message"].startswith("Too long: 9 > 8 tokens")


@pytest.mark.parametrize(
    "usage",
    [
        b'{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}',
        b'{"prompt_tokens":11,"completion_tokens":7}',
        b'{"input_tokens":11,"output_tokens":7}',
        b'{"prompt_tokens":11.0,"completion_tokens":"7"}',
        b'{"prompt_tokens":11,"completion_tokens":2,"total_tokens":18}',
    ],
)
async def test_an_error_event_tells_what_was_used_until_then(usage: bytes) -> None:
    failing = b'data: {"error":{"message":"Oops","code":"server_error"},"usage":%b}\n\n' % usage
    async with (
        Peer(streaming(chunked(event("a") + failing))) as peer,
        Rig(two_accounts(peer)) as rig,
    ):
        await rig.say(post(CHAT, chat(stream=True)))
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens) == (11, 7)


async def test_of_several_waits_the_longest_counts() -> None:
    both_asked, first_served = asyncio.Event(), asyncio.Event()
    gates = [both_asked, first_served]
    asked: list[bytes] = []

    async def limited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(asked)
        asked.append(b"Retry-After: 20" if asked else b"Retry-After: 1")
        if len(asked) == len(gates):
            both_asked.set()
        await gates[number].wait()
        writer.write(b"HTTP/1.1 429 No\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % asked[number])
        await writer.drain()

    async with (
        Peer(limited) as first,
        Peer(saying(200, GOOD)) as second,
        Rig(two_accounts(first, second)) as rig,
    ):
        calls = [asyncio.create_task(ask(rig)) for _ in gates]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        first_served.set()
        assert [(await call)[0] for call in calls] == [200, 200]
        (condition,) = rig.server.engine.balancer.health.describe(now_us())
        assert 18.0 < condition.trial_in_s < 23.0
