"""A JSON request whose path names the model (Gemini's): what is needed of it, and its body anew.

Its fields may be written as `maxOutputTokens` or as `max_output_tokens`: the provider takes both,
so both are read, or a bound would not be what it says.

Source: Gemini API reference, generateContent, embedContent, batchEmbedContents, countTokens; the
JSON mapping of protocol buffers.
"""

from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.errors import BadRequest
from relay.wire.request.json_request import (
    CHOICES_MAX,
    OUTPUT_TOKENS_MAX,
    Request,
    check_model,
    decode_fields,
)
from relay.wire.request.shapes import Fields, GenerationConfig

_CONFIGS: Final = ("generationConfig", "generation_config")
_WRAPPED: Final = ("generateContentRequest", "generate_content_request")
RESOURCE: Final = "models/"
"""What stands before a model's name in a body."""

_config = decoder_of(GenerationConfig | None)
_raw = Decoder(Fields)
_raws = Decoder(list[Fields])
_encoder = msgspec.json.Encoder()


def peek_content(body: bytes, model: str, *, stream: bool) -> Request:
    """Return what `body` asks of the model that its path names.

    Raises:
        BadRequest: CLIENT; see wire.request.json_request.peek_json.
    """
    fields = decode_fields(body)
    bound, choices = None, 1
    for name in _CONFIGS:
        if name in fields:
            config = _read_config(fields[name], name)
            for given in (config.maxOutputTokens, config.max_output_tokens):
                if given is not None:
                    bound = max(_checked(given, OUTPUT_TOKENS_MAX, name), bound or 0)
            for given in (config.candidateCount, config.candidate_count):
                if given is not None:
                    choices = max(_checked(given, CHOICES_MAX, name), choices)
    return Request(
        check_model(model),
        stream=stream,
        output_tokens_max=bound,
        n=choices,
        usage_asked=False,
        fields=fields,
    )


def reframe_content(request: Request, *, model: str) -> bytes:
    """Return the body for an upstream that knows the model as `model`: wherever a body names it."""
    return _encoder.encode(_renamed(request.fields, _encoder.encode(f"{RESOURCE}{model}")))


def _renamed(fields: Fields, name: bytes) -> Fields:
    renamed = fields
    if "model" in fields:
        renamed = {**renamed, "model": msgspec.Raw(name)}
    for wrapper in _WRAPPED:
        if wrapper in fields:
            inner = _renamed(_decode_inner(fields[wrapper], wrapper), name)
            renamed = {**renamed, wrapper: msgspec.Raw(_encoder.encode(inner))}
    if "requests" in fields:
        several = [_renamed(one, name) for one in _decode_list(fields["requests"])]
        renamed = {**renamed, "requests": msgspec.Raw(_encoder.encode(several))}
    return renamed


def _decode_inner(raw: msgspec.Raw, name: str) -> Fields:
    try:
        return _raw.decode(raw)
    except Undecodable:
        pass
    raise BadRequest(f"{name} must be an object.", param=name)


def _decode_list(raw: msgspec.Raw) -> list[Fields]:
    try:
        return _raws.decode(raw)
    except Undecodable:
        pass
    raise BadRequest("requests must be a list of objects.", param="requests")


def _read_config(raw: msgspec.Raw, name: str) -> GenerationConfig:
    try:
        return _config.decode(raw) or GenerationConfig()
    except Undecodable:
        pass
    raise BadRequest(f"{name} must be an object, its bounds integers.", param=name)


def _checked(given: int, most: int, name: str) -> int:
    if not 0 <= given <= most:
        raise BadRequest(f"A bound in {name} must be from 0 to {most}.", param=name)
    return given
