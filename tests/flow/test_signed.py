"""Goal: what an upstream gets over a signing channel is what was signed, however it was asked.

Method: the signature of each request is computed anew from the raw bytes that arrived, by the steps
that AWS documents and nothing of ours; calls whole and streamed, and one to a deployment's path.
"""

import asyncio
import hashlib
import hmac
import re
from urllib.parse import quote

import msgspec
import pytest

from relay.model import Secret
from relay.reach import Auth, Reach
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post

SECRET = "CANARY-secret"
DOCUMENT = msgspec.json.encode(
    {"access_key_id": "AK", "secret_access_key": SECRET, "region": "eu-west-1"}
).decode()
ANSWER = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
SIGNED = re.compile(
    rb"Authorization: AWS4-HMAC-SHA256 Credential=AK/(\d{8})/eu-west-1/bedrock/aws4_request, "
    rb"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})\r\n"
)


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(ANSWER) + ANSWER)
    await writer.drain()


def signature_of(request: bytes) -> tuple[str, str]:
    """Return the signature that a request bears, and the one that it should."""
    head, _, body = request.partition(b"\r\n\r\n")
    found = SIGNED.search(head + b"\r\n")
    assert found is not None, head
    day, names, given = (part.decode() for part in found.groups())
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    signed = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join((method, quote(path, safe="/-._~"), query, signed, names, digest))
    scope = f"{day}/eu-west-1/bedrock/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    said = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}"
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), said):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return given, key.hex()


@pytest.mark.parametrize(
    "reach",
    [
        Reach(auth=Auth.AWS),
        Reach(auth=Auth.AWS, paths={"*": "/arn:a{model}{path}"}, query={"v": "1"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_request_is_signed_as_it_arrives(*, reach: Reach, stream: bool) -> None:
    async with Peer(answer) as peer:
        channel = make_channel(1, peer.port, reach=reach, api_key=Secret(DOCUMENT))
        async with Rig(make_snapshot([channel])) as rig:
            await rig.say(post("/v1/chat/completions", chat(stream=stream), "traceparent: 00-ab"))
    (request,) = peer.requests
    given, wanted = signature_of(request)
    assert given == wanted
    assert b"CANARY" not in request and b"traceparent: 00-ab" in request
