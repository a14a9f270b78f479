"""Goal: nothing of what is asked or answered, and no credential, stays anywhere in the relay.

Method: an upstream that quotes a canary on every path, good and bad, clients that leave, a worker
killed with a stream under way; then everything there is (canary.py) is searched for it, raw and
encoded. The same search must find what was planted there: the names of keys, one in base64.
"""

import asyncio
import base64
import os
import secrets
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.flow.rig import DONE, FINISH, SSE_HEAD, USAGE, Peer, chunked, event, post
from tests.live.canary import all_places, traces
from tests.live.relay_process import PATIENCE_S, RelayProcess, question, send, streaming

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

PROMPT = f"prompt-{secrets.token_hex(16)}"
ANSWER = f"answer-{secrets.token_hex(16)}"
CREDENTIAL = f"sk-upstream-{secrets.token_hex(16)}"
STRANGER = f"relay_{secrets.token_hex(16)}"
PLANTED = f"planted-{secrets.token_hex(16)}"

CATALOG = """
[[channel]]
name = "parrot"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:PARROT_KEY"
models = [{models}]
[[line]]
name = "town"
channels = ["mock", "parrot"]
"""
PRICE = """
[[price]]
model = "{model}"
input = "1"
output = "2"
"""


def plain(status: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return a whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\nConnection: close\r\n\r\n" + body


def told(kind: str) -> bytes:
    """Return JSON that quotes both canaries as an error's message."""
    return b'{"error":{"message":"%b %b","type":"%b","code":"%b"}}' % (
        PROMPT.encode(),
        ANSWER.encode(),
        kind.encode(),
        kind.encode(),
    )


WHOLE = plain(
    "200 OK",
    b'{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"%b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":4,"total_tokens":7}}' % ANSWER.encode(),
)
BEGUN = SSE_HEAD + chunked(event(ANSWER)) + chunked(event(ANSWER))
ANSWERS: dict[str, bytes] = {
    "whole": WHOLE,
    "streamed": BEGUN + chunked(FINISH + USAGE + DONE) + b"0\r\n\r\n",
    "cut": BEGUN,
    "error-inside": BEGUN + chunked(b"data: " + told("server_error") + b"\n\n") + b"0\r\n\r\n",
    "error-first": SSE_HEAD + chunked(b"data: " + told("server_error") + b"\n\n"),
    "garbage": f"{ANSWER} is no HTTP\r\n\r\n".encode(),
    "garbled-chunk": SSE_HEAD + f"{ANSWER}\r\n".encode(),
    "rejected": plain("400 Bad Request", told("invalid_request_error")),
    "denied": plain("401 Unauthorized", told("invalid_api_key")),
    "limited": plain("429 Too Many Requests", told("rate_limit_exceeded")),
    "broken": plain("500 Internal Server Error", told("server_error")),
    "waf": plain("403 Forbidden", f"<html>{ANSWER}</html>".encode(), "text/html"),
    "not-json": plain("200 OK", f"{{{ANSWER}".encode()),
    "header": b"HTTP/1.1 200 OK\r\nX-Echo: %b\r\n%b" % (ANSWER.encode(), b"bad head\r\n\r\n"),
}
"""Model -> what the upstream says to it."""
STREAMED = {"streamed", "cut", "error-inside", "error-first", "garbled-chunk"}
SERVED = {"whole", "streamed", "cut", "error-inside"}
TOLD = {"rejected"}
"""What a provider finds wrong in a request, its client reads in the provider's own words."""
"""Faults after which the client still gets a 200 and the answer, or its beginning."""


CALL = {"name": "look_up", "arguments": f'{{"what":"{PROMPT}"}}'}
CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": PROMPT},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": PROMPT},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PROMPT}"}},
            ],
        },
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": CALL}]},
        {"role": "tool", "tool_call_id": "c", "content": PROMPT},
    ],
    "tools": [{"type": "function", "function": {"name": "look_up", "description": PROMPT}}],
    "metadata": {"note": PROMPT},
    "user": PROMPT,
}
"""A prompt with a canary wherever a client may put words."""

NONSENSE: tuple[bytes, ...] = (
    f"{PROMPT} HTTP/9.9\r\n\r\n".encode(),
    f"GET /v1/{PROMPT} HTTP/1.1\r\nHost: {PROMPT}\r\nConnection: close\r\n\r\n".encode(),
    f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {PROMPT}\r\n\r\n".encode(),
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{PROMPT}\r\n\r\n".encode(),
    post("/v1/chat/completions", PROMPT.encode(), key=STRANGER),
)
"""Requests that nobody's key is asked for, or a stranger's."""


def wrong_calls(key: str) -> tuple[bytes, ...]:
    """Return requests with a good key that are refused, or asked in an unusual way."""
    form = (
        f'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhole\r\n--b\r\n'
        f'Content-Disposition: form-data; name="file"; filename="{PROMPT}"\r\n\r\n{PROMPT}\r\n'
        f"--b--\r\n"
    ).encode()
    form_post = post("/v1/audio/transcriptions", form, key=key).replace(
        b"application/json", b"multipart/form-data; boundary=b"
    )
    return (
        form_post,
        post("/v1/embeddings", {"model": "rejected", "input": PROMPT}, key=key),
        post("/v1/chat/completions", f'{{"model":"whole","messages":{PROMPT}'.encode(), key=key),
        post("/v1/chat/completions", {"model": 7, "messages": [PROMPT]}, key=key),
        post(f"/v1/chat/completions?{PROMPT}", f"[{PROMPT}]".encode(), f"X: {PROMPT}", key=key),
        post("/v1/messages?beta=true", {"model": "whole", "messages": [PROMPT]}, key=key),
    )


@pytest.fixture
async def upstream_port() -> AsyncIterator[int]:
    """Port of an upstream that answers each model in its own way."""

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = peer.requests[-1]
        assert CREDENTIAL.encode() in request
        named = request.replace(b'"model": ', b'"model":')  # the body goes on as it came
        known = (name for name in ANSWERS if f'"model":"{name}"'.encode() in named)
        writer.write(ANSWERS[next(known, "whole")])
        await writer.drain()

    async with Peer(say) as peer:
        yield peer.port


async def say_raw(relay: RelayProcess, raw: bytes) -> bytes:
    """Send bytes on a new connection; return all that comes until it is closed."""
    host, port = relay.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(raw)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


async def apply_parrot(relay: RelayProcess, port: int) -> None:
    models = ", ".join(f'"{model}"' for model in ANSWERS)
    catalog = CATALOG.format(port=port, models=models)
    prices = "".join(PRICE.format(model=model) for model in ANSWERS)
    await relay.apply(catalog + prices, environ={"PARROT_KEY": CREDENTIAL})


async def make_all_calls(relay: RelayProcess, key: str) -> None:
    """Send the prompt and get the answer on every path there is."""
    headers = {"Authorization": f"Bearer {key}", "X-Note": PROMPT}
    for model in ANSWERS:
        body = question(model, **CONVERSATION, stream=model in STREAMED)
        answer = await send(f"{relay.url}/chat/completions?{PROMPT}={PROMPT}", body, headers)
        assert (ANSWER.encode() in answer.body) == (model in SERVED | TOLD), model
        assert (answer.status == 200) == (model in SERVED), model
    for raw in wrong_calls(key):
        assert b"x-request-id" in await say_raw(relay, raw)
    for raw in NONSENSE:
        assert (await say_raw(relay, raw)).startswith(b"HTTP/1.1 4")


async def leave_in_the_middle(relay: RelayProcess, key: str) -> None:
    """Hang up in the middle of a stream."""
    host, port = relay.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = question("steady", **CONVERSATION, stream=True)
    writer.write(post("/v1/chat/completions", {**body, "max_tokens": 200}, key=key))
    await reader.readuntil(b"data: {")
    writer.transport.abort()


async def kill_in_the_middle(relay: RelayProcess, key: str) -> None:
    """Kill the worker that serves a stream: what it has written down is all that stays."""
    body = question("steady", **CONVERSATION)
    async with streaming(relay, key, 1, {**body, "max_tokens": 200}) as streams:
        for pid, _ in relay.workers().values():
            os.kill(pid, signal.SIGKILL)
    assert streams[0].broken


async def test_no_content_and_no_credential_stays(relay: RelayProcess, upstream_port: int) -> None:
    pids = {slot: pid for slot, (pid, _) in relay.workers().items()}
    await apply_parrot(relay, upstream_port)
    key = await relay.make_key(PLANTED)
    await relay.api(
        "keys", {"account": "folk", "name": base64.b64encode(PLANTED.encode()).decode()}
    )
    await make_all_calls(relay, key)
    await leave_in_the_middle(relay, key)
    assert {slot: pid for slot, (pid, _) in relay.workers().items()} == pids
    calls = len(ANSWERS) + len(wrong_calls(key)) + 1
    await relay.rows(PLANTED, calls)
    before = await all_places(relay)
    check_the_search(before)
    await kill_in_the_middle(relay, key)  # their journals are shipped, and gone
    await relay.rows(PLANTED, calls + 1)
    places = await all_places(relay)

    for secret in (PROMPT, ANSWER, CREDENTIAL, STRANGER, key):
        assert traces(secret, before) | traces(secret, places) == set(), secret[:8]
    assert {place for place, _ in traces(relay.key, places)} == {"words", "secrets/demo.key"}
    assert b"unexpected failure" not in places["words"]


def check_the_search(places: dict[str, bytes]) -> None:
    """See that it finds what is there, in each kind of place and in each encoding."""
    planted = traces(PLANTED, places)
    assert {encoding for _, encoding in planted} >= {"plain", "base64+0"}
    folders = {place.rpartition("/")[0] for place, _ in planted}
    assert any(folder.endswith("pg_wal") for folder in folders)
    assert any("/base/" in folder for folder in folders)
    of_a_model = {place for place, _ in traces("error-inside", places)}
    assert any(place.startswith("journal/") for place in of_a_model)
    assert ("metrics", "plain") in traces("parrot", places)
    assert ("table keys", "plain") in planted
    assert any(place.startswith("valkey ") for place in places)
    assert {place.split()[0] for place, _ in traces("--data-dir", places)} >= {"cmdline"}
    assert ("words", "plain") in traces("child started", places)
    shifted = base64.b64encode(f"x{PLANTED}".encode())
    assert traces(PLANTED, {"shifted": shifted}) == {("shifted", "base64+1")}
    wide = PLANTED.encode("utf-16")  # with letters around it, it would be found in both orders
    escaped = "".join(f"%{byte:02X}" for byte in PLANTED.encode()).encode()
    found = traces(PLANTED, {"wide": wide, "escaped": escaped})
    assert found == {("wide", "utf-16-le"), ("escaped", "url")}
