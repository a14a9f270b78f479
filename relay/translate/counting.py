"""Counts of tokens before anything is generated: asked in one dialect, told in another.

A request is translated as if it were to be answered; what of it a dialect's count does not take is
left out then: how an answer is made changes nothing of what its prompt is.

Source: Anthropic API, Count Message tokens; Gemini API, models.countTokens; Vertex AI, countTokens;
OpenAI API reference, Get input token counts.
"""

from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.translate.fields import decode_json, encode
from relay.translate.middle import JsonObject, TranslateDialect

_GEMINI: Final = TranslateDialect.GEMINI
_ANTHROPIC: Final = TranslateDialect.ANTHROPIC
_WRAPPED: Final = "generateContentRequest"
_TAKEN: Final = {
    _ANTHROPIC: ("model", "messages", "system", "tools", "tool_choice", "thinking"),
    TranslateDialect.RESPONSES: (
        *("model", "input", "instructions", "tools", "tool_choice", "text", "reasoning"),
        "parallel_tool_calls",
    ),
}
_VERTEX: Final = ("contents", "systemInstruction", "tools", "generationConfig")
_fields = Decoder(dict[str, msgspec.Raw])
_count = Decoder(int)
_COUNTS: Final = {
    _ANTHROPIC: "input_tokens",
    _GEMINI: "totalTokens",
    TranslateDialect.RESPONSES: "input_tokens",
}


def counted_body(client: TranslateDialect, body: JsonObject) -> JsonObject:
    """Return the request whose tokens are asked for."""
    wrapped = body.get(_WRAPPED) if client is _GEMINI else None
    if not isinstance(wrapped, dict):
        return body
    return {name: value for name, value in wrapped.items() if name != "model"}


def count_request(dialect: TranslateDialect, body: bytes, model: str, *, vertex: bool) -> bytes:
    """Return the question for the count of a request.

    Args:
        dialect: Of both.
        body: Of the request.
        model: The upstream's name of the model.
        vertex: It is asked of Vertex AI, which takes the parts of the request as they are.
    """
    fields = decode_json(body)
    if dialect is not _GEMINI:
        return encode({name: fields[name] for name in _TAKEN[dialect] if name in fields})
    if vertex:
        return encode({name: fields[name] for name in _VERTEX if name in fields})
    return encode({_WRAPPED: {"model": f"models/{model}", **fields}})


def read_count(dialect: TranslateDialect, body: bytes) -> int | None:
    """Return the count that an answer tells, None where it tells none."""
    try:
        return _count.decode(_fields.decode(body)[_COUNTS[dialect]])
    except (Undecodable, KeyError):
        return None


def write_count(dialect: TranslateDialect, tokens: int) -> bytes:
    """Return the answer that tells a count."""
    told: JsonObject = {_COUNTS[dialect]: tokens}
    if dialect is TranslateDialect.RESPONSES:
        told = {"object": "response.input_tokens", **told}
    return encode(told)
