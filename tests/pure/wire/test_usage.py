"""Usage of every dialect in one convention, and nothing that only looks like usage."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.usage import INPUT_UNTOLD as INPUT
from relay.usage import OUTPUT_UNTOLD as OUTPUT
from relay.usage import Usage
from relay.wire.usage.reader import find_usage


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(10, 4, 1, 5, 2),
        ),
        ({"prompt_tokens": 6, "total_tokens": 6}, Usage(6, untold=OUTPUT, total_tokens=6)),
        (
            {
                "input_tokens": 10,
                "input_tokens_details": {"cached_tokens": 3},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 6},
            },
            Usage(10, 3, 0, 7, 6),
        ),
        (
            {
                "input_tokens": 10,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
                "output_tokens": 7,
            },
            Usage(130, 100, 20, 7, 0),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 8},
            Usage(10, 8, 0, 1),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 7}, Usage(10, 7, 0, 1)),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 70}, Usage(10, 10, 0, 1)),
        ({"prompt_tokens": -10, "completion_tokens": -1}, Usage(untold=INPUT | OUTPUT)),
        (
            {"tokens": {"input_tokens": 9, "output_tokens": 2}, "cached_tokens": 1},
            Usage(9, 1, 0, 2),
        ),
        (
            {"total_input_tokens": 9, "total_output_tokens": 2, "total_thought_tokens": 3},
            Usage(9, 0, 0, 5, 3),
        ),
    ],
)
def test_dialects(usage: dict[str, Any], expected: Usage) -> None:
    assert find_usage(b"", json.dumps({"a": 1, "usage": usage}).encode()) == expected
    spaced = b'{"usage" : ' + json.dumps(usage).encode() + b"}"
    assert find_usage(b"", spaced) == expected


def test_gemini_counts_thoughts_apart() -> None:
    metadata = {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 4}
    metadata["cachedContentTokenCount"] = 3
    assert find_usage(b"", event(usageMetadata=metadata)) == Usage(5, 3, 0, 6, 4)


def test_anthropic_start_and_delta_are_merged() -> None:
    start = event(
        type="message_start",
        message={"usage": {"input_tokens": 9, "cache_read_input_tokens": 1, "output_tokens": 1}},
    )
    assert find_usage(start, event(usage={"output_tokens": 8})) == Usage(10, 1, 0, 8)
    assert find_usage(start, event(usage={"input_tokens": 7, "output_tokens": 8})) == Usage(
        8, 1, 0, 8
    )
    assert find_usage(start, b"data: {}\n\n") == Usage(10, 1, 0, 1)


def test_the_last_of_running_totals_counts() -> None:
    events = b"".join(event(usage={"prompt_tokens": 1, "completion_tokens": n}) for n in range(5))
    assert find_usage(b"", events) == Usage(1, 0, 0, 4)


def test_text_and_schemas_are_not_usage() -> None:
    fake = '{"usage":{"prompt_tokens":99,"completion_tokens":99}}'
    assert find_usage(b"", event(choices=[{"delta": {"content": fake}}])) is None
    schema = {"tools": [{"parameters": {"usage": {"type": "object"}}}]}
    assert find_usage(b"", event(**schema)) is None
    behind = {"usage": {"input_tokens": 3, "output_tokens": 1}, **schema}
    assert find_usage(b"", event(**behind)) == Usage(3, 0, 0, 1)
    assert find_usage(b"", b'"usage":null') is None
    assert find_usage(b"", b'"usage":{"prompt_tokens":1') is None
    assert find_usage(b"", b'"usage":{"prompt_tokens":"x"}') is None


@given(st.binary(max_size=100), st.integers(1, 10**6), st.integers(1, 10**6))
def test_whatever_precedes_it(before: bytes, prompt: int, completion: int) -> None:
    usage = json.dumps({"usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
    found = find_usage(before, before + usage.encode())
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (prompt, completion)
