"""The endpoints beside text: embeddings, moderations, rerank, images, speech, transcriptions."""

import base64
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

from relay.mock.answers.answer import (
    CREATED_S,
    EVENT_STREAM,
    TEXT,
    Event,
    MockAnswer,
    Turn,
    event,
    failure,
    single,
)
from relay.mock.answers.chat import DONE
from relay.mock.script import digest, fractions

_Json: TypeAlias = dict[str, object]

IMAGE_TOKENS: Final = 272
"""What a 1024x1024 image of low quality counts as. Source: OpenAI, "Image generation", costs."""
_PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
_HARMS: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_AUDIO_FRAME_BYTES: Final = 417
"""An MPEG-1 layer III frame of 128 kbit/s at 44.1 kHz."""


def answer_embeddings(turn: Turn) -> MockAnswer:
    """Return one vector a text, as floats or as base64 of little-endian float32."""
    question = turn.question
    rows = [
        fractions(digest(text.encode()), question.dimensions) for text in question.inputs or ("",)
    ]
    packed = question.format == "base64"
    vectors = [
        {"object": "embedding", "index": i, "embedding": _pack(row) if packed else row}
        for i, row in enumerate(rows)
    ]
    body: _Json = {"object": "list", "data": vectors, "model": question.model}
    if turn.options.usage:
        tokens = question.prompt_tokens
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return single(body)


def _pack(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def answer_moderations(turn: Turn) -> MockAnswer:
    """Return a verdict for each text: nothing here ever harmed anyone."""
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_HARMS, False),
        "category_scores": dict.fromkeys(_HARMS, 0.0001),
        "category_applied_input_types": {harm: ["text"] for harm in _HARMS},
    }
    results = [result for _ in turn.question.inputs]
    body = {"id": turn.identity("modr"), "model": turn.question.model, "results": results}
    return single(body)


def answer_rerank(turn: Turn) -> MockAnswer:
    """Return an answer in the shape Jina, Voyage and vLLM share."""
    _query, *documents = turn.question.inputs
    scores = [
        (digest(turn.question.said + text.encode())[0] / 255, index)
        for index, text in enumerate(documents)
    ]
    results = [
        {"index": index, "relevance_score": score} for score, index in sorted(scores, reverse=True)
    ]
    body: _Json = {
        "id": turn.identity("rerank"),
        "model": turn.question.model,
        "results": results,
    }
    if turn.options.usage:
        tokens = turn.question.prompt_tokens
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return single(body)


def answer_images(turn: Turn) -> MockAnswer:
    """Return n images of one pixel, in base64, for a generation as for an edit."""
    images = turn.question.n
    image = base64.b64encode(_PNG).decode()
    tokens = IMAGE_TOKENS * images
    body: _Json = {"created": CREATED_S, "data": [{"b64_json": image} for _ in range(images)]}
    if turn.options.usage:
        prompt = turn.question.prompt_tokens
        body["usage"] = {
            "input_tokens": prompt,
            "input_tokens_details": {"text_tokens": prompt, "image_tokens": 0},
            "output_tokens": tokens,
            "total_tokens": prompt + tokens,
        }
    return single(body, tokens)


def answer_speech(turn: Turn) -> MockAnswer:
    """Return as many audio frames as an answer has tokens: bytes that no text decoder survives."""
    root = digest(turn.question.said)
    frame = b"\xff\xfb\x90\x64" + (root * 32)[: _AUDIO_FRAME_BYTES - 4]
    return MockAnswer(
        events=((frame, 0) for _ in range(turn.options.chunks)),
        streamed=True,
        content_type=b"audio/mpeg",
    )


def answer_transcription(turn: Turn) -> MockAnswer:
    """Return the words of a file: they grow from its bytes, so damage on the way shows."""
    passage = turn.passage()
    tokens = len(passage.tokens)
    if turn.question.format == "text":
        return MockAnswer(events=((passage.text.encode() + b"\n", tokens),), content_type=TEXT)
    body: _Json = {"text": passage.text}
    if turn.options.usage:
        body["usage"] = _audio_usage(turn, tokens)
    if not turn.question.stream:
        return single(body, tokens)

    def generate() -> Iterator[Event]:
        for token in passage.tokens:
            yield event({"type": "transcript.text.delta", "delta": token}), 1
        yield event({"type": "transcript.text.done", **body}), 0

    return MockAnswer(
        events=generate(),
        streamed=True,
        content_type=EVENT_STREAM,
        done_event=DONE if turn.options.done else b"",
        error_event=event(failure()),
    )


def _audio_usage(turn: Turn, tokens: int) -> _Json:
    prompt = turn.question.prompt_tokens
    return {
        "type": "tokens",
        "input_tokens": prompt,
        "input_token_details": {"text_tokens": 0, "audio_tokens": prompt},
        "output_tokens": tokens,
        "total_tokens": prompt + tokens,
    }
