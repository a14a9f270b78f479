"""What other gateways got wrong between the dialects, in answers: one test each.

Method: the smallest stream or body that shows the mistake; what is written is read as plain JSON,
not by the floor's own readers.
"""

import json

import pytest

from relay.translate import (
    StreamTranslator,
    translate_answer,
    translate_error,
)
from tests.pure.translate.plain import Json, anthropic_events, call_delta, chunk, events
from tests.pure.translate.reading import TERMS
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    GEMINI,
    RESPONSES,
    sse,
)

# --- usage -------------------------------------------------------------------------------------


def test_anthropics_input_leaves_the_cache_out_and_nothing_is_counted_twice() -> None:
    start = {"input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 1}
    end = {"input_tokens": 10, "cache_creation_input_tokens": 30, "output_tokens": 7}
    usage = events(ANTHROPIC, CHAT, anthropic_events(start, end, "end_turn"))[-1]["usage"]
    assert usage["prompt_tokens"] == 10 + 60 + 30
    assert usage["prompt_tokens_details"] == {"cached_tokens": 60, "cache_write_tokens": 30}
    assert usage["completion_tokens"] == 7
    assert usage["total_tokens"] == 107


def test_an_old_servers_delta_with_output_alone_keeps_the_input_of_the_start() -> None:
    start = {"input_tokens": 10, "output_tokens": 1}
    usage = events(ANTHROPIC, CHAT, anthropic_events(start, {"output_tokens": 7}, "end_turn"))[-1]
    assert usage["usage"]["prompt_tokens"] == 10
    assert usage["usage"]["completion_tokens"] == 7


def test_openais_input_includes_the_cache_and_anthropics_is_what_is_left() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
    }
    stream = sse(chunk({"content": "Hi"}, "stop"), {"choices": [], "usage": usage})
    found = events(CHAT, ANTHROPIC, stream + b"data: [DONE]\n\n")
    delta = next(event for event in found if event["type"] == "message_delta")
    assert delta["usage"]["input_tokens"] == 10
    assert delta["usage"]["cache_read_input_tokens"] == 60
    assert delta["usage"]["cache_creation_input_tokens"] == 30


def test_geminis_thoughts_are_output_and_its_tools_prompts_are_input() -> None:
    counts = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 20,
        "candidatesTokenCount": 10,
        "thoughtsTokenCount": 40,
        "totalTokenCount": 170,
    }
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
    body = json.dumps({"candidates": [candidate], "usageMetadata": counts}).encode()
    usage = json.loads(translate_answer(GEMINI, CHAT, body, TERMS).body)["usage"]
    assert usage["prompt_tokens"] == 120
    assert usage["completion_tokens"] == 50
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 40
    assert usage["total_tokens"] == counts["totalTokenCount"]


def test_running_totals_are_never_summed() -> None:
    chunks = [
        chunk({"content": "a"}, usage={"prompt_tokens": 8, "completion_tokens": n})
        for n in range(1, 6)
    ]
    stream = sse(*chunks, chunk({}, "stop")) + b"data: [DONE]\n\n"
    usage = events(CHAT, RESPONSES, stream)[-1]["response"]["usage"]
    assert usage["input_tokens"] == 8
    assert usage["output_tokens"] == 5


# --- streams -----------------------------------------------------------------------------------


def test_calls_are_counted_from_0_whatever_the_blocks_before_them() -> None:
    blocks = [{"type": "text", "text": "Let me see."}] + [
        {"type": "tool_use", "id": f"t{n}", "name": "f", "input": {"n": n}} for n in range(2)
    ]
    parts: list[Json] = [{"type": "message_start", "message": {}}]
    for index, block in enumerate(blocks):
        opened = {"type": "content_block_start", "index": index, "content_block": block}
        parts += [opened, {"type": "content_block_stop", "index": index}]
    parts += [
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    found = events(ANTHROPIC, CHAT, sse(*parts, event=True))
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    indexes = [delta["tool_calls"][0]["index"] for delta in deltas if "tool_calls" in delta]
    assert indexes == [0, 0, 1, 1]


@pytest.mark.parametrize("order", [(0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 1, 1), (1, 1, 0, 0)])
def test_deltas_of_two_calls_never_mix_in_anthropics_one_open_block(
    order: tuple[int, ...],
) -> None:
    pieces = {0: ['{"a":', "1}"], 1: ['{"b":', "2}"]}
    stream = sse(
        *[call_delta(n, f"t{n}", f"f{n}", "") for n in range(2)],
        *[call_delta(n, None, None, pieces[n].pop(0)) for n in order],
        chunk({}, "tool_calls"),
    )
    found = events(CHAT, ANTHROPIC, stream + b"data: [DONE]\n\n")
    said: dict[int, str] = {}
    names: dict[int, str] = {}
    opened = -1
    for event in found:
        if event["type"] == "content_block_start":
            assert event["index"] == opened + 1
            opened = event["index"]
            names[opened] = event["content_block"]["name"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == opened
            said[opened] = said.get(opened, "") + event["delta"]["partial_json"]
    assert {names[index]: said[index] for index in said} == {"f0": '{"a":1}', "f1": '{"b":2}'}


def test_words_behind_a_whole_call_get_a_block_of_their_own_at_once() -> None:
    stream = sse(call_delta(0, "t0", "f", "{}"), chunk({"content": "Done."}))
    translator = StreamTranslator(CHAT, ANTHROPIC, TERMS)
    assert b'"text":"Done."' in translator.feed(stream)


def test_words_and_thinking_within_an_open_call_wait_for_its_end() -> None:
    stream = sse(
        call_delta(0, "t0", "f", '{"a"'),
        chunk({"content": "Wait."}),
        chunk({"reasoning_content": "Hm."}),
        call_delta(0, None, None, ":1}"),
        chunk({}, "tool_calls"),
    )
    found = events(CHAT, ANTHROPIC, stream + b"data: [DONE]\n\n")
    kinds = [e["content_block"]["type"] for e in found if e["type"] == "content_block_start"]
    assert kinds == ["tool_use", "text", "thinking"]


def test_a_call_without_an_index_and_calls_that_all_have_index_0() -> None:
    for first, second in ((None, None), (0, 0)):
        stream = sse(
            call_delta(first, "a", "f", '{"n":1}'),
            call_delta(second, "b", "g", '{"n":2}'),
            chunk({}, "tool_calls"),
        )
        found = events(CHAT, GEMINI, stream + b"data: [DONE]\n\n")
        parts = [event["candidates"][0]["content"]["parts"][0] for event in found]
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        assert [(call["id"], call["args"]) for call in calls] == [("a", {"n": 1}), ("b", {"n": 2})]


def test_an_error_behind_a_finish_reason_is_an_error() -> None:
    stream = sse(
        chunk({"content": "Hi"}),
        chunk({}, "length"),
        {"error": {"code": 400, "message": "Broken."}, "choices": []},
    )
    found = events(CHAT, ANTHROPIC, stream + b"data: [DONE]\n\n")
    assert found[-1]["type"] == "error"
    assert "message_delta" not in [event["type"] for event in found]


# --- endings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "chat", "gemini", "responses"),
    [
        ("end_turn", "stop", "STOP", None),
        ("stop_sequence", "stop", "STOP", None),
        ("max_tokens", "length", "MAX_TOKENS", "max_output_tokens"),
        ("model_context_window_exceeded", "length", "MAX_TOKENS", "max_output_tokens"),
        ("refusal", "content_filter", "SAFETY", "content_filter"),
        ("pause_turn", "length", "OTHER", "max_output_tokens"),
    ],
)
def test_every_ending_of_anthropics_has_one_elsewhere(
    reason: str, chat: str, gemini: str, responses: str | None
) -> None:
    stream = anthropic_events({}, {}, reason)
    choice = events(ANTHROPIC, CHAT, stream)[-2]["choices"][0]
    assert choice["finish_reason"] == chat
    if reason not in {"end_turn", "max_tokens"}:
        assert choice["native_finish_reason"] == reason
    last = events(ANTHROPIC, GEMINI, stream)[-1]["candidates"][0]
    assert last["finishReason"] == gemini
    whole = events(ANTHROPIC, RESPONSES, stream)[-1]["response"]
    assert (whole["incomplete_details"] or {}).get("reason") == responses


@pytest.mark.parametrize(
    ("reason", "chat"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        *[(word, "content_filter") for word in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT")],
    ],
)
def test_geminis_endings_are_never_handed_on_raw(reason: str, chat: str) -> None:
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": reason}
    stream = sse({"candidates": [candidate]})
    assert events(GEMINI, CHAT, stream)[-2]["choices"][0]["finish_reason"] == chat


def test_gemini_says_stop_though_it_calls_and_other_servers_too() -> None:
    part = {"functionCall": {"name": "f", "args": {}}}
    candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
    stream = sse({"candidates": [candidate]})
    assert events(GEMINI, CHAT, stream)[-2]["choices"][0]["finish_reason"] == "tool_calls"
    stream = sse(call_delta(0, "t", "f", "{}"), chunk({}, "stop")) + b"data: [DONE]\n\n"
    ends = [e for e in events(CHAT, ANTHROPIC, stream) if e["type"] == "message_delta"]
    assert ends[0]["delta"]["stop_reason"] == "tool_use"


def test_a_prompt_that_gemini_blocks_ends_as_filtered_and_a_broken_call_as_an_error() -> None:
    stream = sse({"promptFeedback": {"blockReason": "SAFETY"}})
    assert events(GEMINI, CHAT, stream)[-2]["choices"][0]["finish_reason"] == "content_filter"
    stream = sse({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]})
    assert "MALFORMED_FUNCTION_CALL" in events(GEMINI, CHAT, stream)[-1]["error"]["message"]


def test_a_refusal_in_words_stays_one() -> None:
    stream = sse(chunk({"refusal": "I cannot."}), chunk({}, "stop")) + b"data: [DONE]\n\n"
    found = events(CHAT, ANTHROPIC, stream)
    ended = next(event for event in found if event["type"] == "message_delta")
    assert ended["delta"]["stop_reason"] == "refusal"
    part = events(CHAT, RESPONSES, stream)[-1]["response"]["output"][0]["content"][0]
    assert part == {"type": "refusal", "refusal": "I cannot."}


# --- errors ------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_said_in_words_that_agents_know() -> None:
    words = (
        "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576)."
    )
    body = json.dumps({"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}})
    found = json.loads(translate_error(ANTHROPIC, 400, body.encode()))["error"]
    assert found["type"] == "invalid_request_error"
    assert found["message"].startswith("prompt is too long: 1250074 tokens > 1048576 maximum")
    anthropic = {"type": "error", "error": {"type": "invalid_request_error", "message": ""}}
    anthropic["error"]["message"] = "prompt is too long: 210000 tokens > 200000 maximum"  # type: ignore[index]
    found = json.loads(translate_error(CHAT, 400, json.dumps(anthropic).encode()))["error"]
    assert found["code"] == "context_length_exceeded"


def test_an_overloaded_provider_is_overloaded_in_every_dialect() -> None:
    stream = sse({"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}})
    assert events(ANTHROPIC, GEMINI, stream)[-1]["error"]["code"] == 503
    assert events(ANTHROPIC, RESPONSES, stream)[-1]["response"]["status"] == "failed"
    failed = {"error": {"code": "server_is_overloaded", "message": "Busy."}}
    stream = sse({"type": "response.failed", "response": failed})
    assert events(RESPONSES, ANTHROPIC, stream)[-1]["error"]["type"] == "overloaded_error"
