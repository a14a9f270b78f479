"""What is read of the events of a session of voice.

Source: OpenAI API reference, Realtime client events and server events.
"""

import msgspec

from relay.wire.usage.shapes import NOTHING


class Transcription(msgspec.Struct):
    """By which model what is said is written down."""

    model: str = ""


class InputAudio(msgspec.Struct):
    """What a session does with what it hears."""

    transcription: Transcription | None = None


class SessionAudio(msgspec.Struct):
    """Both ways of a session's sound."""

    input: InputAudio | None = None


class SessionSaid(msgspec.Struct):
    """A session as either side tells it; `input_audio_transcription` is its older way."""

    audio: SessionAudio | None = None
    input_audio_transcription: Transcription | None = None


class ResponseAsked(msgspec.Struct):
    """What a client asks of one response."""

    max_output_tokens: int | str | None = None


class ClientEvent(msgspec.Struct):
    """An event of a client's."""

    type: str = ""
    event_id: str | None = None
    session: SessionSaid | None = None
    response: ResponseAsked | None = None


class InputParts(msgspec.Struct):
    """Parts of what was heard and read."""

    cached_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    cached_tokens_details: "InputParts | None" = None


class OutputParts(msgspec.Struct):
    """Parts of what was said."""

    audio_tokens: int = 0


class RealtimeUsage(msgspec.Struct):
    """What one response, or one transcription, used; some are told in seconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_token_details: InputParts | None = None
    output_token_details: OutputParts | None = None
    seconds: float | None = None


class ResponseTold(msgspec.Struct):
    """One response as its events tell it; its usage is read by itself, for it may be none."""

    id: str = ""
    status: str = ""
    usage: msgspec.Raw = NOTHING


class ErrorTold(msgspec.Struct):
    """What went wrong, and with which event of the client's."""

    code: str | None = None
    message: str = ""
    event_id: str | None = None


class ServerEvent(msgspec.Struct):
    """An event of a provider's."""

    type: str = ""
    response: ResponseTold | None = None
    error: ErrorTold | None = None
    session: SessionSaid | None = None
    usage: msgspec.Raw = NOTHING
