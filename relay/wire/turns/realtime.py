"""Events of sessions of voice: which of them cost something, and what they say of it.

Nearly all frames are pieces of sound: told by their first bytes, and neither decoded nor changed.

Source: OpenAI API reference, Realtime; Azure, Realtime (`deployment`).
"""

import re
from typing import Final
from urllib.parse import quote

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import RelayError
from relay.extras import Extras
from relay.model import Channel
from relay.usage import Usage, bounded
from relay.wire.turns.realtime_shapes import (
    ClientEvent,
    InputParts,
    OutputParts,
    RealtimeUsage,
    ServerEvent,
    SessionSaid,
)
from relay.wire.usage.claims import mend
from relay.wire.usage.shapes import TOKENS_MAX

CREATE: Final = "response.create"
CREATED: Final = b"response.created"
DONE: Final = b"response.done"
TRANSCRIBED: Final = b"conversation.item.input_audio_transcription.completed"
ERROR: Final = b"error"
SESSION_EVENTS: Final = frozenset(
    {
        *(b"session.created", b"session.updated"),
        *(b"transcription_session.created", b"transcription_session.updated"),
    }
)
SOUND_BYTES_PER_TOKEN: Final = 3_200
"""Of base64, said: 24,000 samples of two bytes a second, and a token for 50 ms of them."""
HEARD_BYTES_PER_TOKEN: Final = 6_400
"""The same, heard: a token for 100 ms. Source: OpenAI, Realtime, Managing costs."""
TEXT_BYTES_PER_TOKEN: Final = 4
DELTA_BYTES: Final = 200
"""What of a delta is no content."""

_HEAD_BYTES: Final = 256
_TYPE: Final = re.compile(rb'"type"\s*:\s*"([a-z_.]+)"')
_RESPONSE_ID: Final = re.compile(rb'"response_id"\s*:\s*"([A-Za-z0-9_\-]{1,200})"')
_APPEND: Final = re.compile(
    rb'\s*\{\s*("event_id"\s*:\s*"[^"\\]*"\s*,\s*)?"type"\s*:\s*'
    rb'"input_audio_buffer\.append"\s*,\s*"audio"\s*:\s*"[^"\\]*"\s*\}\s*'
)

_client = Decoder(ClientEvent)
_server = Decoder(ServerEvent)
_usage = Decoder(RealtimeUsage)
_encode = msgspec.json.Encoder().encode
_UNTOLD: Final = RealtimeUsage()
_NO_INPUT: Final = InputParts()
_NO_OUTPUT: Final = OutputParts()


def is_sound(payload: bytes) -> bool:
    """Tell whether a client's event is a piece of sound, and nothing beside it."""
    return payload.find(b"append", 0, _HEAD_BYTES) >= 0 and _APPEND.fullmatch(payload) is not None


def read_client_event(payload: bytes) -> ClientEvent:
    """Return what is read of a client's event; what is none is told by its provider."""
    try:
        return _client.decode(payload)
    except Undecodable:
        return ClientEvent()


def type_of(payload: bytes) -> bytes:
    """Return the type of a provider's event, b"" where it does not begin with it."""
    found = _TYPE.search(payload, 0, _HEAD_BYTES)
    return found[1] if found is not None else b""


def response_of(payload: bytes) -> str:
    """Return which response an event belongs to, "" where it does not say."""
    found = _RESPONSE_ID.search(payload, 0, 2 * _HEAD_BYTES)
    return found[1].decode() if found is not None else ""


def read_server_event(payload: bytes) -> ServerEvent | None:
    """Return what is read of a provider's event, None where it is not as it should be."""
    try:
        return _server.decode(payload)
    except Undecodable:
        return None


def transcriber_of(session: SessionSaid | None) -> str:
    """Return the model that a session has what it hears written down by, "" = none."""
    if session is None:
        return ""
    told = session.audio.input.transcription if session.audio and session.audio.input else None
    told = told or session.input_audio_transcription
    return told.model if told is not None else ""


def transcriber_param(session: SessionSaid | None) -> str:
    """Return where a session names that model."""
    if session is not None and session.input_audio_transcription is not None:
        return "session.input_audio_transcription.model"
    return "session.audio.input.transcription.model"


def read_voice_usage(raw: msgspec.Raw) -> Usage | None:
    """Return a provider's count in our convention, None where there is none; see wire.usage.claims.

    What was heard before and read from a cache counts as cached, and not as sound once more.
    """
    if bytes(raw) == b"null":
        return None
    try:
        told = _usage.decode(raw)
    except Undecodable:
        mended = mend(bytes(raw), RealtimeUsage)
        if mended is None or mended == _UNTOLD:
            return None
        told = mended
    inward, outward = told.input_token_details or _NO_INPUT, told.output_token_details or _NO_OUTPUT
    cached = inward.cached_tokens_details or _NO_INPUT
    extras = None
    if told.seconds is not None and 0 < told.seconds < TOKENS_MAX:
        extras = Extras(audio_ms=round(told.seconds * 1000))
    return bounded(
        Usage(
            min(told.input_tokens, TOKENS_MAX),
            inward.cached_tokens,
            0,
            min(told.output_tokens, TOKENS_MAX),
            audio_input_tokens=inward.audio_tokens - cached.audio_tokens,
            audio_output_tokens=outward.audio_tokens,
            image_input_tokens=inward.image_tokens - cached.image_tokens,
            extras=extras,
        )
    )


def delta_tokens(kind: bytes, size: int) -> tuple[int, int]:
    """Return about how much a delta of so many bytes says: thousandths of tokens, of sound, text.

    What is said aloud comes as its transcript as well, which costs nothing by itself.
    """
    content = max(0, size - DELTA_BYTES)
    if kind.endswith(b"audio.delta"):
        return content * 1000 // SOUND_BYTES_PER_TOKEN, 0
    if kind.endswith(b"transcript.delta") or not kind.endswith(b".delta"):
        return 0, 0
    return 0, max(1, content // TEXT_BYTES_PER_TOKEN) * 1000


def heard_tokens(size: int, *, sound: bool) -> int:
    """Return about how many tokens a client's event adds to a session."""
    return size // (HEARD_BYTES_PER_TOKEN if sound else TEXT_BYTES_PER_TOKEN)


def session_path(channel: Channel, model: str, *, transcribes: bool) -> str:
    """Return path and query, below its root, by which a channel opens a session."""
    reach = channel.reach
    name = "deployment" if reach is not None and reach.names_model else "model"
    asked = f"{name}={quote(model, safe='')}"
    if transcribes:
        asked = "intent=transcription"
    return f"/realtime?{asked}"


def cancel_text(response_id: str) -> bytes:
    """Return the event that ends a response which nobody may pay for."""
    return _encode({"type": "response.cancel", "response_id": response_id})


def refusal_text(error: RelayError, request_id: str, event_id: str | None) -> bytes:
    """Return the event that tells an error, as a provider of sessions would."""
    said = {
        "type": error.kind,
        "code": error.code,
        "message": f"{error.message} (request id: {request_id})",
        "param": error.param,
        "event_id": event_id,
    }
    told = {"type": "error", "event_id": f"event_{request_id}", "status": error.status}
    return _encode({**told, "error": said})
