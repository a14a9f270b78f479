"""Usage of every dialect in one convention, wherever the bytes are cut; no claim is believed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.usage import INPUT_UNTOLD as INPUT
from relay.usage import OUTPUT_UNTOLD as OUTPUT
from relay.usage import Usage
from relay.wire.usage.reader import find_usage


def read(usage: dict[str, Any], key: str = "usage") -> Usage | None:
    return find_usage(b"", json.dumps({"id": "x", key: usage}).encode())


CASES: list[tuple[str, dict[str, Any], Usage]] = [
    (
        "usage",
        {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2,
                                      "audio_tokens": 1, "image_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1,
                                          "image_tokens": 1},
        },
        Usage(9, 3, 2, 4, 2, audio_input_tokens=1, audio_output_tokens=1, image_input_tokens=2,
              image_output_tokens=1),
    ),
    (  # Responses
        "usage",
        {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 4,
         "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 13},
        Usage(9, 3, 0, 4, 2),
    ),
    (  # embeddings
        "usage",
        {"prompt_tokens": 5, "total_tokens": 5},
        Usage(5, untold=OUTPUT, total_tokens=5),
    ),
    (  # transcription
        "usage",
        {"type": "tokens", "input_tokens": 37, "input_token_details": {"audio_tokens": 37},
         "output_tokens": 5, "total_tokens": 42},
        Usage(37, output_tokens=5, audio_input_tokens=37),
    ),
    (  # images
        "usage",
        {"input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
         "output_tokens": 50, "total_tokens": 100},
        Usage(50, output_tokens=50, image_input_tokens=40),
    ),
    (  # DeepSeek
        "usage",
        {"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 6,
         "prompt_cache_miss_tokens": 3},
        Usage(9, 6, 0, 4),
    ),
    (  # Together, Moonshot
        "usage",
        {"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 2},
        Usage(9, 2, 0, 4),
    ),
    (  # xAI leaves the reasoning out of completion_tokens
        "usage",
        {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135,
         "completion_tokens_details": {"reasoning_tokens": 94}},
        Usage(32, 0, 0, 103, 94),
    ),
    (  # Anthropic leaves both caches out of input_tokens
        "usage",
        {"input_tokens": 3, "cache_read_input_tokens": 50, "cache_creation_input_tokens": 100,
         "cache_creation": {"ephemeral_1h_input_tokens": 40}, "output_tokens": 7,
         "output_tokens_details": {"thinking_tokens": 5}},
        Usage(153, 50, 100, 7, 5, cache_write_1h_tokens=40),
    ),
    (  # what summarised the context, and another model that was asked for advice, is charged too
        "usage",
        {"input_tokens": 10, "output_tokens": 7, "iterations": [
            {"type": "compaction", "input_tokens": 900, "output_tokens": 50,
             "cache_read_input_tokens": 20, "cache_creation_input_tokens": 30,
             "cache_creation": {"ephemeral_1h_input_tokens": 5}},
            {"type": "message", "input_tokens": 10, "output_tokens": 7},
            {"type": "advisor_message", "input_tokens": 3, "output_tokens": 2},
            {"type": "fallback_message", "input_tokens": 1, "output_tokens": 1}]},
        Usage(963, 20, 30, 59, cache_write_1h_tokens=5),
    ),
    (  # odd ones do not hide the rest
        "usage",
        {"input_tokens": 10, "output_tokens": 7, "iterations": [{"input_tokens": "many"}]},
        Usage(10, 0, 0, 7),
    ),
    (
        "usage",
        {"input_tokens": 10, "output_tokens": 7, "iterations": None},
        Usage(10, 0, 0, 7),
    ),
    (  # an Anthropic model behind OpenAI's shape: prompt_tokens includes them
        "usage",
        {"prompt_tokens": 153, "completion_tokens": 7, "cache_read_input_tokens": 50,
         "cache_creation_input_tokens": 100},
        Usage(153, 50, 100, 7),
    ),
    (
        "usageMetadata",
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 3,
         "toolUsePromptTokenCount": 2, "cachedContentTokenCount": 4,
         "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7},
                                 {"modality": "AUDIO", "tokenCount": 1},
                                 {"modality": "IMAGE", "tokenCount": 2}],
         "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 5}]},
        Usage(12, 4, 0, 8, 3, audio_input_tokens=1, image_input_tokens=2, image_output_tokens=5),
    ),
    (
        "usage",
        {"total_input_tokens": 10, "total_output_tokens": 5, "total_thought_tokens": 3,
         "total_cached_tokens": 4, "total_tool_use_tokens": 2},
        Usage(12, 4, 0, 8, 3),
    ),
    (  # Cohere
        "usage",
        {"billed_units": {"input_tokens": 62.0}, "tokens": {"input_tokens": 968.0,
         "output_tokens": 83}, "cached_tokens": 208},
        Usage(968, 208, 0, 83),
    ),
    (  # recorded: more cached than there was
        "usage",
        {"prompt_tokens": 347, "completion_tokens": 18,
         "prompt_tokens_details": {"cached_tokens": 403, "cache_write_tokens": 9}},
        Usage(347, 347, 0, 18),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "wire", "usage"), CASES)
def test_every_dialect_in_one_convention(key: str, wire: dict[str, Any], usage: Usage) -> None:
    assert read(wire, key) == usage
    spaced = json.dumps({key: wire}, indent=1).encode()
    assert find_usage(b"", b"trash}]" + spaced + b'\n\n"citations":["' + b"x" * 5000) == usage


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**30},
        {"prompt_tokens": "many"},
        {"prompt_tokens": True},
        {},
    ],
)
def test_what_is_no_count_is_no_usage(usage: dict[str, Any]) -> None:
    assert read(usage) is None


START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,'
    b'"cache_creation_input_tokens":100,"cache_read_input_tokens":50,"cache_creation":'
    b'{"ephemeral_1h_input_tokens":100},"output_tokens":1}}}\n\n'
)
DELTA = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":65}}\n\n'
WHOLE = START + DELTA + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


@pytest.mark.parametrize(("first", "tail"), [(START, DELTA), (WHOLE, WHOLE), (WHOLE, DELTA)])
def test_anthropic_s_two_objects_are_merged(first: bytes, tail: bytes) -> None:
    expected = Usage(153, 50, 100, 65, cache_write_1h_tokens=100)
    assert find_usage(first, tail) == expected


def test_a_beginning_without_counts_is_passed_over() -> None:
    found = find_usage(b'data: {"type":"message_start"}\n\n', DELTA)
    assert found == Usage(output_tokens=65, untold=INPUT)


def test_a_stream_that_only_began_has_its_input() -> None:
    found = find_usage(START, b"data: {}\n\n")
    assert found is not None and (found.input_tokens, found.output_tokens) == (153, 1)


REAL = b'"usage":{"prompt_tokens":9,"completion_tokens":4}'
SPOOFS = [
    b'{"content":"\\"usage\\":{\\"prompt_tokens\\":1}"}',
    b'"tools":[{"properties":{"usage":{"type":"object","properties":{"input_tokens":{}}}}}]',
    b'"usage":{"properties":{"prompt_tokens":{"type":"integer"}}}',
    b'"usage":null',
    b'"usage":{"trafficType":"ON_DEMAND"}',
    b'"usage":{',
    b'"usage":{"prompt_tokens":1',
    b'"usage":{"prompt_tokens":[}}}',
]


@pytest.mark.parametrize("spoof", SPOOFS)
def test_text_and_schemas_do_not_fool_it(spoof: bytes) -> None:
    assert find_usage(b"", spoof) is None
    assert find_usage(b"", REAL + b"," + spoof) == Usage(9, output_tokens=4)
    assert find_usage(b"", spoof + b"\n" + REAL) == Usage(9, output_tokens=4)


def test_running_totals_are_not_summed() -> None:
    totals = b"".join(
        b'data: {"usage":{"prompt_tokens":8,"completion_tokens":%d}}\n\n' % n for n in range(1, 6)
    )
    assert find_usage(b"", totals) == Usage(8, output_tokens=5)


def test_an_answer_of_nothing_but_objects_is_given_up() -> None:
    assert find_usage(b"", REAL + b'"usage":{}' * 1000) is None


@settings(max_examples=200)
@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_and_any_cut_end_in_a_usage_or_none(
    before: bytes, after: bytes, cut: int
) -> None:
    for block in (before, (before + REAL + after)[cut:], before + WHOLE[cut:] + after):
        found = find_usage(block, block)
        assert found is None or (
            0 <= found.cached_tokens + found.cache_write_tokens <= found.input_tokens
            and 0 <= found.reasoning_tokens <= found.output_tokens
        )


def grounded(queries: list[str], model: str = "gemini-3-pro") -> bytes:
    candidate = {"groundingMetadata": {"webSearchQueries": queries, "groundingChunks": []}}
    answer = {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4},
        "modelVersion": model,
    }
    return b"data: " + json.dumps(answer).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("tail", "searches"),
    [
        (grounded(["who won?"]), 1),
        (grounded(["a", 'b [x], "y"', "c\\"]), 3),
        (grounded(["a", "b", "c"], "gemini-2.5-flash"), 1),
        (grounded(["a", "b"], "models/gemini-1.5-pro-002"), 1),
        (grounded([]), 0),
        (grounded(["a"]).replace(b'["a"]', b'["a" '), 0),
        (grounded(["a"]).replace(b"webSearchQueries", b"webSearchQuery"), 0),
        (grounded(["a"]).replace(b'["a"]', b"[" + b'"a"' + b" " * 9_000 + b"!]"), 0),
        (grounded(["a"]).replace(b'["a"]', b"[" + b'"a" ' * 3_000 + b"!]"), 0),
    ],
)
def test_searches_that_ground_geminis_answers_are_counted(tail: bytes, searches: int) -> None:
    for body in (tail, tail.removeprefix(b"data: ").strip()):
        usage = find_usage(b"", body)
        assert usage is not None and (usage.input_tokens, usage.output_tokens) == (9, 4)
        assert (usage.extras.searches if usage.extras else 0) == searches
