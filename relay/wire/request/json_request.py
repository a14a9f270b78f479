"""A JSON request: what routing, limits and billing need of it, and its body for an upstream.

The body is decoded once, one level deep: values stay raw bytes. What an upstream gets is
encoded anew from that level, so that a key given twice cannot mean one thing to us and another to
the upstream. (That costs 0.3 us for 1 KB and 1.5 us for 64 KB: a proof that a body gives no key
twice costs more than encoding it.)
"""

from codecs import utf_8_decode
from typing import Final, TypeVar

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.errors import BadRequest
from relay.records import Endpoint
from relay.wire.request.shapes import Fields, StreamOptions

FIELDS_MAX: Final = 1_024
"""Of a body's top level; no API has a hundred, and each is looked at several times."""
MODEL_CHARS_MAX: Final = 256
CHOICES_MAX: Final = 128
OUTPUT_TOKENS_MAX: Final = 2**31 - 1

PIECE_BYTES: Final = 64 * 1024

_Value = TypeVar("_Value")


_fields = Decoder(Fields)
_text = Decoder(str)
_flag = decoder_of(bool | None)
_format = decoder_of(str | None)
_count = decoder_of(int | None)
_options = decoder_of(StreamOptions | None)
_raw_options = decoder_of(Fields | None)
_encoder = msgspec.json.Encoder()

_UNSTREAMED: Final = frozenset(
    {
        *(Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.RERANK, Endpoint.COUNT_TOKENS),
        *(Endpoint.INPUT_TOKENS, Endpoint.COMPACT, Endpoint.VIDEOS),
    }
)
"""Endpoints whose answers are never events, whatever a body says: a channel that ignores it has
done nothing wrong."""
_SPEECH: Final = Endpoint.SPEECH
_BOUNDS: Final = {
    Endpoint.CHAT: ("max_completion_tokens", "max_tokens"),
    Endpoint.COMPLETIONS: ("max_tokens",),
    Endpoint.RESPONSES: ("max_output_tokens",),
    Endpoint.MESSAGES: ("max_tokens",),
}
"""What bounds an answer, by endpoint: any other name bounds nothing there."""
_NO_BOUNDS: Final[tuple[str, ...]] = ()
_MULTIPLIERS: Final = ("n", "best_of")
"""Both make as many answers as they say; of `best_of` one is shown, and all are charged."""


class Request:
    """What a body asks for.

    `output_tokens_max`: the largest bound it gives that its endpoint knows, None without one. `n`:
    answers or images that are made for it. `usage_asked`: the client
    itself wants the usage event. `fields`: the top level, values as they came.
    """

    __slots__ = ("fields", "model", "n", "output_tokens_max", "stream", "usage_asked")

    def __init__(
        self,
        model: str,
        *,
        stream: bool,
        output_tokens_max: int | None,
        n: int,
        usage_asked: bool,
        fields: Fields,
    ) -> None:
        self.model = model
        self.stream = stream
        self.output_tokens_max = output_tokens_max
        self.n = n
        self.usage_asked = usage_asked
        self.fields = fields

    def with_fields(self, fields: Fields) -> "Request":
        """Return the same request with another top level."""
        return Request(
            self.model,
            stream=self.stream,
            output_tokens_max=self.output_tokens_max,
            n=self.n,
            usage_asked=self.usage_asked,
            fields=fields,
        )


def peek_json(body: bytes, endpoint: Endpoint) -> Request:
    """Return what `body` asks of `endpoint`.

    Raises:
        BadRequest: CLIENT; not JSON, not UTF-8, not an object, too deep, no model, or a field of
            the wrong type. The message quotes none of the body.
    """
    fields = decode_fields(body)
    raw_model = fields.get("model")
    if raw_model is None:
        raise BadRequest(f"The request to /v1/{endpoint.value} names no model.", param="model")
    model = check_model(_field(fields, "model", _text, "a string") or "")
    # Most requests name few of these: what is not there is not looked for twice.
    stream, options = False, None
    if "stream" in fields:
        stream = _field(fields, "stream", _flag, "true or false") or False
        stream = stream and endpoint not in _UNSTREAMED
    if endpoint is _SPEECH:  # it has no `stream`: events come where the format says so
        stream = _field(fields, "stream_format", _format, "a string") == "sse"
    bounds = _BOUNDS.get(endpoint, _NO_BOUNDS)
    output_tokens_max = None if fields.keys().isdisjoint(bounds) else _read_bounds(fields, bounds)
    n = 1 if fields.keys().isdisjoint(_MULTIPLIERS) else _read_choices(fields)
    if "stream_options" in fields:
        options = _field(fields, "stream_options", _options, "an object")
    usage_asked = options is not None and options.include_usage is True
    return Request(
        model,
        stream=stream,
        output_tokens_max=output_tokens_max,
        n=n,
        usage_asked=usage_asked,
        fields=fields,
    )


def _read_bounds(fields: Fields, names: tuple[str, ...]) -> int | None:
    """Return the largest bound on output tokens; None where those that are named bound nothing."""
    largest: int | None = None
    for name in names:
        bound = _field(fields, name, _count, "an integer") if name in fields else None
        if bound is None or bound <= 0:
            continue
        if bound > OUTPUT_TOKENS_MAX:
            raise BadRequest(
                f"A bound on output tokens must be at most {OUTPUT_TOKENS_MAX}.", param=name
            )
        if largest is None or bound > largest:
            largest = bound
    return largest


def _read_choices(fields: Fields) -> int:
    """Return how many answers or images are made for a request."""
    most = 1
    for name in _MULTIPLIERS:
        number = _field(fields, name, _count, "an integer") if name in fields else None
        if number is None:
            continue
        if not 1 <= number <= CHOICES_MAX:
            raise BadRequest(f"{name} must be from 1 to {CHOICES_MAX}.", param=name)
        most = max(most, number)
    return most


def check_model(name: str) -> str:
    """Return a model's name as a client gave it.

    Raises:
        BadRequest: CLIENT; empty, too long, or with characters that cannot be shown: names go into
            logs and tables, and Postgres takes no NUL.
    """
    if not 0 < len(name) <= MODEL_CHARS_MAX or not name.isprintable():
        raise BadRequest(
            f"model must have 1 to {MODEL_CHARS_MAX} printable characters.", param="model"
        )
    return name


def reframe_json(request: Request, *, model: str, add_usage: bool) -> bytes:
    """Return the body for an upstream that knows the model as `model`.

    `add_usage` sets stream_options.include_usage and leaves the client's other options as they are.
    """
    fields = request.fields
    if model == request.model and not add_usage:
        return _encoder.encode(fields)
    changed: dict[str, object] = {}
    if model != request.model:
        changed["model"] = model
    if add_usage:
        options: dict[str, object] = {}
        if "stream_options" in fields:
            options.update(_raw_options.decode(fields["stream_options"]) or {})
        options["include_usage"] = True
        changed["stream_options"] = options
    return _encoder.encode({**fields, **changed})


def decode_fields(body: bytes) -> Fields:
    """Return the top level of a body, values as they came; see `peek_json`."""
    try:
        if not body.isascii():
            check_utf8(body)
        fields = _fields.decode(body)
        if len(fields) <= FIELDS_MAX:
            return fields
        reason = f"it has more than {FIELDS_MAX:,} fields"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except Undecodable as error:
        reason = "it is not an object" if error.place else "it is not JSON"
        if error.deep:
            reason = "it is nested too deeply"
    # Raised out here, so that no exception that saw the body hangs on to this one.
    raise BadRequest(f"The request body could not be read: {reason}.")


def check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError where bytes are not UTF-8.

    Piece by piece: decoded whole, a prompt of 20 MB takes 40 MB more, and three times as long.
    """
    size = len(body)
    if size <= PIECE_BYTES:
        body.decode()
        return
    at, view = 0, memoryview(body)
    while at < size:
        end = min(at + PIECE_BYTES, size)
        at += utf_8_decode(view[at:end], "strict", end == size)[1]


def _field(fields: Fields, name: str, decoder: Decoder[_Value], kind: str) -> _Value | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except Undecodable:
        pass
    raise BadRequest(f"{name} must be {kind}.", param=name)
