"""A request's body: read for what routing and billing need, framed anew for each channel.

What an upstream gets is written from the parsed top level, never the client's bytes as they came:
so both sides read the same model out of a body that names two.
"""

from aiohttp.http_parser import RawRequestMessage

from relay.call import MULTIPART_ENDPOINTS, Endpoint
from relay.errors import UnsupportedMedia
from relay.flow.active import ActiveCall
from relay.flow.exchange import Framing
from relay.model import Channel
from relay.wire.multipart import peek_multipart, reframe_multipart
from relay.wire.request import peek_json, reframe_json
from relay.wire.usage import estimate_tokens

USAGE_ON_DEMAND = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})
"""Endpoints whose streams report usage only where `stream_options.include_usage` asks for it."""
TEXT_ANSWERS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES})


def frame_request(
    call: ActiveCall, message: RawRequestMessage, body: bytes
) -> tuple[Framing, bool]:
    """Fill in what the body says of the call.

    Returns:
        How to frame the body for a channel, and whether the usage event must be kept from the
        client, who did not ask for it.

    Raises:
        UnsupportedMedia: CLIENT; the content type is not the endpoint's.
        BadRequest: CLIENT; see wire.request and wire.multipart.
    """
    content_type = message.headers.get("Content-Type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if call.endpoint in MULTIPART_ENDPOINTS:
        if kind != "multipart/form-data":
            raise UnsupportedMedia("Send this request as multipart/form-data.")
        return _frame_form(call, content_type, body), False
    if kind not in ("application/json", ""):
        raise UnsupportedMedia("Send this request as application/json.")
    return _frame_json(call, body)


def _frame_json(call: ActiveCall, body: bytes) -> tuple[Framing, bool]:
    request = peek_json(body, call.endpoint)
    call.model = request.model
    call.stream = request.stream
    call.counts_bytes = call.endpoint in TEXT_ANSWERS
    call.input_estimate = estimate_tokens(len(body))
    asks = request.stream and not request.usage_asked and call.endpoint in USAGE_ON_DEMAND

    def frame(channel: Channel, model: str) -> tuple[bytes, bytes]:
        add_usage = asks and channel.include_usage
        return b"application/json", reframe_json(request, model=model, add_usage=add_usage)

    return frame, asks


def _frame_form(call: ActiveCall, content_type: str, body: bytes) -> Framing:
    form = peek_multipart(body, content_type)
    call.model = form.model
    call.stream = form.stream

    def frame(channel: Channel, model: str) -> tuple[bytes, bytes]:
        return content_type.encode("latin-1"), reframe_multipart(form, model=model)

    return frame
