"""Claude at Vertex and Bedrock: requests as these want them, and Bedrock's answers back.

The model is in the path there and the version in the body; betas go into Bedrock's body as well.
Bedrock streams frames of its own, each with one event of Anthropic's in it; they become the events
that Anthropic would have sent. Of a body one level is read, as everywhere.

Source: Anthropic API, "Claude on Vertex AI" and "Claude on Amazon Bedrock"; Amazon Bedrock API
reference, InvokeModelWithResponseStream.
"""

import base64
import binascii
import re
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.model import Channel
from relay.reach import ClaudeHost
from relay.wire.kinds.event_stream import Message, StreamGarbled

FRAMES: Final = b"application/vnd.amazon.eventstream"
_VERSIONS: Final = {
    ClaudeHost.VERTEX: msgspec.Raw(b'"vertex-2023-10-16"'),
    ClaudeHost.BEDROCK: msgspec.Raw(b'"bedrock-2023-05-31"'),
}
_KINDS: Final = {
    "throttlingException": "rate_limit_error",
    "serviceUnavailableException": "overloaded_error",
    "modelTimeoutException": "timeout_error",
    "validationException": "invalid_request_error",
}
_BETA: Final = re.compile(rb"(?mi)^anthropic-beta: ([^\r\n]*)\r\n")
_VERSION: Final = re.compile(rb"(?mi)^anthropic-version: [^\r\n]*\r\n")
_LENGTH: Final = re.compile(rb"(?mi)^content-length: \d+\r\n")
_TYPE: Final = re.compile(r"[a-z_]{1,64}")

_decode = Decoder(dict[str, msgspec.Raw]).decode
_text = Decoder(str)
_any = Decoder(Any)
_encode = msgspec.json.Encoder().encode


class _Typed(msgspec.Struct):
    type: str = ""


class _Chunk(msgspec.Struct):
    bytes: str


_typed = Decoder(_Typed)
_chunk = Decoder(_Chunk)


def host_claude(channel: Channel, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return a request of Anthropic's API as a channel's host wants it.

    Args:
        channel: Whose reach names the host.
        head: A whole one of ours, from its first line to the empty one.
        body: JSON.
    """
    assert channel.reach is not None
    host = channel.reach.claude_on
    fields = _decode(body)
    model = _text.decode(fields.get("model", msgspec.Raw(b'""')))
    streamed = bytes(fields.get("stream", b"")) == b"true"
    counted = b"/count_tokens" in head.partition(b" HTTP/")[0]
    if counted and host is ClaudeHost.VERTEX:
        path = "/models/count-tokens:rawPredict"
    else:
        fields.pop("model", None)
        fields["anthropic_version"] = _VERSIONS[host]
        path = _path(host, model, streamed=streamed)
    if host is ClaudeHost.BEDROCK:
        fields.pop("stream", None)
        betas = [beta.strip() for found in _BETA.findall(head) for beta in found.split(b",")]
        if betas:
            fields["anthropic_beta"] = msgspec.Raw(_encode([beta.decode() for beta in betas]))
        head = _BETA.sub(b"", head)
    body = _encode(fields)
    rest = _LENGTH.sub(b"Content-Length: %d\r\n" % len(body), _VERSION.sub(b"", head))
    root = urlsplit(channel.api_root).path
    return b"POST %b HTTP/1.1\r\n%b" % (f"{root}{path}".encode(), rest.partition(b"\r\n")[2]), body


def _path(host: ClaudeHost, model: str, *, streamed: bool) -> str:
    named = quote(model, safe="@-._~")
    if host is ClaudeHost.VERTEX:
        return f"/models/{named}:{'streamRawPredict' if streamed else 'rawPredict'}"
    return f"/model/{named}/{'invoke-with-response-stream' if streamed else 'invoke'}"


def event_of(message: Message) -> bytes:
    """Return a message of Bedrock's as an event of Anthropic's; b"" = it holds none.

    Raises:
        StreamGarbled: It should hold one, and does not.
    """
    kind = message.headers.get(":message-type")
    if kind == "event":
        if message.headers.get(":event-type") != "chunk":
            return b""
        try:
            found = _chunk.decode(message.payload)
            payload = base64.b64decode(found.bytes, validate=True)
            name = _typed.decode(payload).type
        except (Undecodable, binascii.Error):
            raise StreamGarbled("a chunk holds no event") from None
        if _TYPE.fullmatch(name) is None or b"\n" in payload or b"\r" in payload:
            raise StreamGarbled("a chunk holds no event")
        return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)
    name = message.headers.get(":exception-type") or message.headers.get(":error-code", "")
    error = {"type": _KINDS.get(name, "api_error"), "message": _said(message.payload)}
    return b"event: error\ndata: %b\n\n" % _encode({"type": "error", "error": error})


def _said(payload: bytes) -> str:
    try:
        said = _any.decode(payload)
    except Undecodable:
        return "The upstream broke off."
    words = said.get("message") if isinstance(said, dict) else None
    return words if isinstance(words, str) else "The upstream broke off."
