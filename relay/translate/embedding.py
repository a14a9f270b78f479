"""Embeddings: asked in OpenAI's words or Gemini's, told in the other's.

OpenAI's clients ask for base64 by default: that is made here of a list of numbers. What a model is
to do with a text (`taskType`, `title`) has no word in OpenAI's dialect, and is listed as dropped.

Source: OpenAI API reference, Create embeddings; Gemini API, models.embedContent and
batchEmbedContents.
"""

import base64
import struct
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.records import Endpoint
from relay.translate.fields import encode, objects_in
from relay.translate.middle import JsonObject, TranslateDialect, refusal
from relay.translate.requests import TranslatedRequest

_GEMINI: Final = TranslateDialect.GEMINI
_OPENAI_READ: Final = frozenset({"model", "input", "dimensions", "encoding_format"})
_GEMINI_READ: Final = frozenset({"model", "content", "outputDimensionality"})
_DIMENSIONS: Final = "outputDimensionality"


class _OpenAiVector(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _OpenAiAnswer(msgspec.Struct):
    data: list[_OpenAiVector]


class _GeminiVector(msgspec.Struct):
    values: list[float]


class _GeminiAnswer(msgspec.Struct):
    embeddings: list[_GeminiVector]


_openai = Decoder(_OpenAiAnswer)
_gemini = Decoder(_GeminiAnswer)


def embedding_request(
    upstream: TranslateDialect, endpoint: Endpoint, body: JsonObject, model: str
) -> TranslatedRequest:
    """Return the question for embeddings in the upstream's dialect.

    Args:
        upstream: That dialect.
        endpoint: What the client asked at.
        body: What it asked.
        model: The upstream's name of the model.

    Raises:
        Refused: CLIENT; what the other dialect cannot say.
    """
    if upstream is _GEMINI:
        return _to_gemini(body, model)
    whole = endpoint is Endpoint.BATCH_EMBED_CONTENTS
    return _to_openai(objects_in(body.get("requests")) if whole else [body], model)


def read_vectors(upstream: TranslateDialect, body: bytes) -> list[list[float]] | None:
    """Return the vectors of an answer, in the order of the texts; None where it has none."""
    try:
        if upstream is _GEMINI:
            return [vector.values for vector in _gemini.decode(body).embeddings]
        data = sorted(_openai.decode(body).data, key=lambda one: one.index)
    except Undecodable:
        return None
    vectors = [one.embedding for one in data if isinstance(one.embedding, list)]
    return vectors if len(vectors) == len(data) else None


def write_vectors(
    endpoint: Endpoint, vectors: list[list[float]], model: str, tokens: int, *, packed: bool
) -> bytes:
    """Return the answer that a client gets at an endpoint.

    Args:
        endpoint: What it asked at.
        vectors: One for each text.
        model: Its name of the model.
        tokens: Of the texts.
        packed: In base64, as little-endian floats of 32 bits.
    """
    if endpoint is Endpoint.EMBED_CONTENT:
        return encode({"embedding": {"values": vectors[0] if vectors else []}})
    if endpoint is Endpoint.BATCH_EMBED_CONTENTS:
        return encode({"embeddings": [{"values": vector} for vector in vectors]})
    rows = [
        {"object": "embedding", "index": at, "embedding": _pack(vector) if packed else vector}
        for at, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode({"object": "list", "data": rows, "model": model, "usage": usage})


def wants_packed(body: JsonObject) -> bool:
    """Tell whether a client of OpenAI's wants its vectors in base64."""
    return body.get("encoding_format") == "base64"


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _to_gemini(body: JsonObject, model: str) -> TranslatedRequest:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise refusal("input", "it has to be text, or a list of texts")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise refusal("encoding_format")
    more = {_DIMENSIONS: body["dimensions"]} if body.get("dimensions") is not None else {}
    asked = [
        {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **more}
        for text in texts
    ]
    dropped = tuple(sorted(body.keys() - _OPENAI_READ))
    return TranslatedRequest(encode({"requests": asked}), "", stream=False, dropped=dropped)


def _to_openai(requests: list[JsonObject], model: str) -> TranslatedRequest:
    if not requests:
        raise refusal("requests", "there is none")
    texts: list[str] = []
    dropped: dict[str, None] = {}
    sizes = {request.get(_DIMENSIONS) for request in requests}
    if len(sizes) > 1:
        raise refusal(_DIMENSIONS, "it has to be the same for all texts")
    for request in requests:
        content = request.get("content")
        parts = objects_in(content.get("parts")) if isinstance(content, dict) else []
        words = [part.get("text") for part in parts]
        if not words or not all(isinstance(word, str) for word in words):
            raise refusal("content", "it has to be text")
        texts.append("\n".join(str(word) for word in words))
        dropped |= dict.fromkeys(sorted(request.keys() - _GEMINI_READ))
    asked: JsonObject = {"model": model, "input": texts, "encoding_format": "float"}
    (size,) = sizes
    if size is not None:
        asked["dimensions"] = size
    return TranslatedRequest(encode(asked), "", stream=False, dropped=tuple(dropped))
