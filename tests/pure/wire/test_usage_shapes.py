"""Goal: whatever shape a usage has, what is said is used, and what is not said is known as untold.

Method: rows of shapes that were seen in the field, and their relatives, with the right values.
"""

import json
from typing import Any

import pytest

from relay.extras import Extras
from relay.records import Endpoint
from relay.usage import INPUT_UNTOLD as INPUT
from relay.usage import OUTPUT_UNTOLD as OUTPUT
from relay.usage import Usage
from relay.wire.classify import drop_usage_event
from relay.wire.usage.reader import find_media_usage, find_usage, find_usage_of_body

Told = tuple[int, int, int]
"""Input, output, untold."""


def told(usage: Usage | None) -> Told | None:
    return None if usage is None else (usage.input_tokens, usage.output_tokens, usage.untold)


def both(body: dict[str, Any]) -> list[Usage | None]:
    """Return what is found in a plain answer and at the end of a stream."""
    raw = json.dumps(body).encode()
    return [find_usage_of_body(raw), find_usage(b"", b"data: " + raw + b"\n\ndata: [DONE]\n\n")]


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        # A total beyond both parts: output that was left out of the count.
        ({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 118}, (11, 107, 0)),
        ({"input_tokens": 11, "output_tokens": 7, "total_tokens": 118}, (11, 107, 0)),
        ({"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 118}, (11, 107, 0)),
        ({"prompt_tokens": 11, "total_tokens": 118}, (11, 107, 0)),
        ({"completion_tokens": 7, "total_tokens": 18}, (11, 7, 0)),
        # ... but caches that a translator left out are input.
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
             "prompt_tokens_details": {"cached_tokens": 100}},
            (110, 5, 0),
        ),
        # Floats and strings are counts; what is no number is not said.
        ({"prompt_tokens": 11.0, "completion_tokens": 7.0}, (11, 7, 0)),
        ({"prompt_tokens": "11", "completion_tokens": "7"}, (11, 7, 0)),
        ({"prompt_tokens": 11, "completion_tokens": "7.0"}, (11, 7, 0)),
        ({"prompt_tokens": "eleven", "completion_tokens": 7}, (0, 7, INPUT)),
        ({"prompt_tokens": 11, "completion_tokens": [7]}, (11, 0, OUTPUT)),
        ({"prompt_tokens": 11, "completion_tokens": 10**12}, (11, 0, OUTPUT)),
        ({"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": 0}, (11, 7, 0)),
        ({"input_tokens": "11", "output_tokens": "7", "cache_read_input_tokens": "4"}, (15, 7, 0)),
        # Missing, null, zero: none of these is a count.
        ({"prompt_tokens": 11}, (11, 0, OUTPUT)),
        ({"completion_tokens": 7}, (0, 7, INPUT)),
        ({"prompt_tokens": None, "completion_tokens": 7}, (0, 7, INPUT)),
        ({"prompt_tokens": 0, "completion_tokens": 7, "total_tokens": 7}, (0, 7, INPUT)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (0, 0, INPUT | OUTPUT)),
        ({"total_tokens": 18}, (0, 0, INPUT | OUTPUT)),
        ({"input_tokens": 0, "output_tokens": 7}, (0, 7, INPUT)),
    ],
)  # fmt: skip
def test_what_is_said_is_used(wire: dict[str, Any], expected: Told) -> None:
    for usage in both({"id": "x", "choices": [], "usage": wire}):
        assert told(usage) == expected
        assert usage is not None and usage.total_tokens in (0, wire.get("total_tokens"))


TRUE = {"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 990}
PART = {"prompt_tokens": 300, "completion_tokens": 30, "total_tokens": 330}


@pytest.mark.parametrize(
    "body",
    [
        {"usage": TRUE, "usage_breakdown": {"models": [{"model": "a", "usage": PART}]}},
        {"usage_breakdown": {"models": [{"model": "a", "usage": PART}]}, "usage": TRUE},
        {"x_groq": {"usage": TRUE, "usage_breakdown": {"models": [{"usage": PART}]}}},
        {"usage": TRUE, "model_usage": [{"usage": PART}, {"usage": PART}]},
        {"usage": TRUE, "metadata": {"usage": PART, "note": "x"}},
        {"metadata": {"note": "x", "usage": PART}, "usage": TRUE},
        {"usage": TRUE, "tools": [{"function": {"parameters": {"usage": PART}}}]},
    ],
)
def test_only_the_usage_of_the_whole_counts(body: dict[str, Any]) -> None:
    for usage in both({"id": "x", "choices": [], **body}):
        assert told(usage) == (900, 90, 0)


def test_a_breakdown_is_known_where_its_event_was_cut() -> None:
    body = json.dumps({"usage": TRUE, "usage_breakdown": {"models": [{"usage": PART}]}})
    assert told(find_usage(b"", b'xt"}}]},' + body[1:].encode())) == (900, 90, 0)


def test_metadata_alone_is_no_usage() -> None:
    for usage in both({"metadata": {"a": "b", "usage": PART}, "usage": None}):
        assert usage is None


@pytest.mark.parametrize(
    ("body", "extras"),
    [
        ({"usage": {**TRUE, "server_tool_use": {"web_search_requests": 3}}}, Extras(searches=3)),
        ({"usage": {**TRUE, "num_search_queries": 2}}, Extras(searches=2)),
        ({"usage": {**TRUE, "num_sources_used": 4}}, Extras(searches=4)),
        (
            {"usage": {**TRUE, "server_side_tool_usage_details": {"web_search_calls": 2}}},
            Extras(searches=2),
        ),
        (
            {"output": [{"type": "web_search_call"}, {"type": "web_search_call"}], "usage": TRUE},
            Extras(searches=2),
        ),
        (
            {"response": {"output": [{"type": "code_interpreter_call"}] * 2, "usage": TRUE}},
            Extras(sessions=1),
        ),
        ({"output": [{"type": "file_search_call"}], "usage": TRUE}, Extras(searches=1)),
        ({"output": [{"text": '"type":"web_search_call"'}], "usage": TRUE}, None),
        ({"usage": {"type": "duration", "seconds": 11}}, Extras(audio_ms=11_000)),
        ({"usage": {"type": "duration", "seconds": 8.47}}, Extras(audio_ms=8_470)),
        ({"usage": {**TRUE, "service_tier": "priority"}}, Extras(tier="priority")),
        ({"usage": TRUE, "service_tier": "flex"}, Extras(tier="flex")),
        ({"response": {"service_tier": "priority", "usage": TRUE}}, Extras(tier="priority")),
        ({"usage": {**TRUE, "speed": "fast"}}, Extras(tier="fast")),
        ({"usage": TRUE, "service_tier": "default"}, None),
        ({"usage": TRUE, "service_tier": "default", "metadata": {"service_tier": "flex"}}, None),
        ({"usage": TRUE, "metadata": {"service_tier": "flex"}}, None),
        (
            {"service_tier": "priority", "usage": TRUE, "metadata": {"service_tier": "default"}},
            Extras(tier="priority"),
        ),
    ],
)
def test_what_is_no_token_is_told_too(body: dict[str, Any], extras: Extras | None) -> None:
    for usage in both({"id": "x", **body}):
        assert usage is not None and usage.extras == extras


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"usage": TRUE, "service_tier": "default"}, True),
        ({"usage": TRUE, "service_tier": "priority"}, True),
        ({"usage": TRUE}, False),
        ({"usage": TRUE, "service_tier": None}, False),
        ({"usage": TRUE, "metadata": {"service_tier": "default"}}, False),
    ],
)
def test_whether_a_tier_was_told(body: dict[str, Any], *, says: bool) -> None:
    for usage in both({"id": "x", **body}):
        assert usage is not None and usage.tier_told is says


@pytest.mark.parametrize(
    ("body", "endpoint", "extras"),
    [
        ({"text": "a", "duration": 8.5}, Endpoint.TRANSCRIPTIONS, Extras(audio_ms=8_500)),
        ({"text": "a", "duration": "8.5"}, Endpoint.TRANSCRIPTIONS, Extras(audio_ms=8_500)),
        ({"text": "a", "duration": -8.5}, Endpoint.TRANSCRIPTIONS, None),
        ({"text": "a", "duration": "long"}, Endpoint.TRANSCRIPTIONS, None),
        ({"text": '"duration":9'}, Endpoint.TRANSCRIPTIONS, None),
        ({"text": "a", "duration": 8.5}, Endpoint.CHAT, None),
        (
            {"results": [], "meta": {"billed_units": {"search_units": 2}}},
            Endpoint.RERANK,
            Extras(search_units=2),
        ),
        ({"results": [], "meta": {}}, Endpoint.RERANK, None),
    ],
)
def test_media_say_their_own_units(
    body: dict[str, Any], endpoint: Endpoint, extras: Extras | None
) -> None:
    usage = find_media_usage(json.dumps(body).encode(), endpoint)
    assert (None if usage is None else usage.extras) == extras
    assert find_media_usage(b"plain text", endpoint) is None


def test_an_error_event_says_what_was_used() -> None:
    event = {"error": {"message": "too long", "code": "x"}, "usage": TRUE}
    inside = {"error": {"message": "too long", "usage": TRUE}}
    failed = {"type": "response.failed", "response": {"error": {"code": "x"}, "usage": TRUE}}
    for body in (event, inside, failed):
        raw = b"event: error\ndata: " + json.dumps(body).encode() + b"\n\n"
        assert told(find_usage(b"", raw)) == (900, 90, 0)


@pytest.mark.parametrize("choices", ["[]", "null", None])
@pytest.mark.parametrize("colon", [":", ": "])
def test_a_usage_event_nobody_asked_for_is_kept_back(choices: str | None, colon: str) -> None:
    member = "" if choices is None else f'"choices"{colon}{choices},'
    usage = f'data: {{{member}"usage"{colon}{json.dumps(TRUE)}}}\n\n'.encode()
    text = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    assert drop_usage_event(text + usage) == text
    with_text = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}\n\n'
    assert drop_usage_event(with_text) is with_text
