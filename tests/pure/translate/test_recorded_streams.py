"""Recorded streams, to each other dialect and back: nothing is lost that both can say.

Method: what a provider sent, what comes of it in another dialect, and what comes of that in the
first one again are read into the middle form and compared; also cut at random, and cut short.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.translate import StreamTranslator, TranslateDialect, read_error, translate_error
from relay.translate.answer import TRUNCATED, Finish
from relay.translate.counts import ZERO
from tests.pure.translate.reading import TERMS, meaning, read_body, read_stream
from tests.pure.translate.samples import ANTHROPIC, CHAT, DIALECTS, GEMINI, RESPONSES
from tests.recorded import recorded_streams


def dialect_of(name: str) -> TranslateDialect | None:
    """Return the dialect of a recording, None for what is none of the four (Cohere, threads)."""
    maker, kind, *_ = name.split("-")
    if kind == "chat" and maker != "cohere":
        return CHAT
    if maker == "anthropic" and kind in {"anthropic", "midstreamfallback", "sdkfixture"}:
        return ANTHROPIC
    return {"gemini": GEMINI, "responses": RESPONSES}.get(kind)


STREAMS: Final = [
    (path, dialect) for path in recorded_streams() if (dialect := dialect_of(path.name)) is not None
]
TRIPS: Final = [
    (path, dialect, other)
    for path, dialect in STREAMS
    for other in DIALECTS
    if other is not dialect
]
IDS: Final = [f"{path.stem}-{other.value}" for path, _, other in TRIPS]
ALIKE: Final = {
    Finish.STOP_SEQUENCE: Finish.STOP,
    Finish.CONTEXT: Finish.LENGTH,
    Finish.DECLINED: Finish.FILTERED,
}


def translated(source: TranslateDialect, target: TranslateDialect, stream: bytes) -> bytes:
    translator = StreamTranslator(source, target, TERMS)
    return translator.feed(stream) + translator.end()


def common(said: dict[str, Any], other: TranslateDialect) -> dict[str, Any]:
    """Return of a meaning what `other` has a way to say as well."""
    usage = said["usage"] or ZERO
    if other is not ANTHROPIC:
        usage = dataclasses.replace(usage, cache_write_1h_tokens=0)
    if other is GEMINI:
        usage = dataclasses.replace(usage, cache_write_tokens=0)
    if other is not CHAT:
        usage = dataclasses.replace(usage, audio_input_tokens=0, audio_output_tokens=0)
    if said["trouble"] is not None:
        usage = ZERO  # an error says nothing of it, and billing does not ask the client's stream
    calls = said["calls"]
    if other is GEMINI:
        calls = [call for call in calls if not isinstance(call[2], str)]  # cut short: not there
    return {
        **said,
        "calls": calls,
        "usage": usage,
        "ending": ALIKE.get(said["ending"], said["ending"]),
    }


def test_there_are_recordings_of_all_four_dialects() -> None:
    counts = {one: sum(dialect is one for _, dialect in STREAMS) for one in DIALECTS}
    assert min(counts.values()) >= 1


@pytest.mark.parametrize(("path", "dialect", "other"), TRIPS, ids=IDS)
def test_there_and_back_loses_nothing(
    path: Path, dialect: TranslateDialect, other: TranslateDialect
) -> None:
    stream = path.read_bytes()
    there = translated(dialect, other, stream)
    back = translated(other, dialect, there)
    sent = common(meaning(read_stream(dialect, stream)), other)
    assert common(meaning(read_stream(other, there)), other) == sent
    assert common(meaning(read_stream(dialect, back)), other) == sent


@pytest.mark.parametrize(("path", "dialect", "other"), TRIPS, ids=IDS)
def test_event_by_event_is_as_at_once(
    path: Path, dialect: TranslateDialect, other: TranslateDialect
) -> None:
    stream = path.read_bytes()
    translator = StreamTranslator(dialect, other, TERMS)
    separator = b"\r\n\r\n" if b"\r\n\r\n" in stream else b"\n\n"
    *events, rest = stream.split(separator)
    out = b"".join(translator.feed(event + separator) for event in events)
    out += (translator.feed(rest) if rest else b"") + translator.end()
    assert out == translated(dialect, other, stream)


@given(choice=st.integers(0, len(TRIPS) - 1), cuts=st.lists(st.integers(0, 400), max_size=30))
@settings(max_examples=150, deadline=None)
def test_blocks_of_any_size_give_the_same(choice: int, cuts: list[int]) -> None:
    path, dialect, other = TRIPS[choice]
    stream = path.read_bytes()
    separator = b"\r\n\r\n" if b"\r\n\r\n" in stream else b"\n\n"
    events = [event + separator for event in stream.split(separator)]
    translator = StreamTranslator(dialect, other, TERMS)
    bounds = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    out = b"".join(
        translator.feed(b"".join(events[one:two])) for one, two in itertools.pairwise(bounds)
    )
    assert out + translator.end() == translated(dialect, other, stream)


@given(choice=st.integers(0, len(TRIPS) - 1), share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_a_cut_stream_is_an_error_or_whole(choice: int, share: float) -> None:
    path, dialect, other = TRIPS[choice]
    stream = path.read_bytes()
    separator = b"\r\n\r\n" if b"\r\n\r\n" in stream else b"\n\n"
    events = stream.split(separator)
    kept = separator.join(events[: int(share * len(events))]) + separator
    said = read_stream(other, translated(dialect, other, kept))
    source = read_stream(dialect, kept)
    assert (said.ending is None) == (source.ending is None)
    if source.ending is None:
        assert said.trouble is not None
        assert source.trouble is not None
        assert said.trouble.message == source.trouble.message
        assert b"[DONE]" not in translated(dialect, other, kept)


def test_a_cut_stream_ends_with_the_clients_own_error_event() -> None:
    begun = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    ends = {
        ANTHROPIC: b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":',
        GEMINI: b'data: {"error":{"code":502,"message":',
        RESPONSES: b"event: response.failed\ndata: ",
    }
    for other, end in ends.items():
        translator = StreamTranslator(CHAT, other, TERMS)
        translator.feed(begun)
        last = translator.end()
        assert last.startswith(end)
        assert TRUNCATED.encode() in last
        assert translator.over
        assert translator.feed(begun) == translator.end() == translator.fail() == b""
    translator = StreamTranslator(GEMINI, CHAT, TERMS)
    assert translator.end().startswith(b'data: {"error":{"message":"The upstream ended')


# Written as each provider documents its errors, each with words of its own.
ERRORS: Final = {
    "openai": (
        404,
        {
            "error": {
                "message": "The model `m-1` does not exist",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
        },
    ),
    "anthropic": (
        401,
        {
            "type": "error",
            "error": {"type": "authentication_error", "message": "invalid x-api-key"},
            "request_id": "req_1",
        },
    ),
    "google": (
        400,
        {
            "error": {
                "code": 400,
                "message": "Invalid value at 'contents'",
                "status": "INVALID_ARGUMENT",
            }
        },
    ),
    "google in a list": (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "Quota exceeded for metric",
                    "status": "RESOURCE_EXHAUSTED",
                }
            }
        ],
    ),
    "a sentence": (
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x."},
    ),
    "cohere": (401, {"id": "1", "message": "invalid api token"}),
    "bedrock": (403, {"Message": "Authentication failed: sign the request."}),
}


@pytest.mark.parametrize("other", DIALECTS, ids=lambda one: one.value)
@pytest.mark.parametrize(("status", "body"), ERRORS.values(), ids=ERRORS)
def test_an_error_keeps_its_words(status: int, body: Any, other: TranslateDialect) -> None:
    raw = json.dumps(body).encode()
    said = read_error(raw, status)
    assert said.message != "The upstream failed."
    read = read_body(other, translate_error(other, status, raw)).trouble
    assert read is not None
    assert said.message in read.message
