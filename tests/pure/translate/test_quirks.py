"""What providers do beside their dialects' books, and the rarer ends of answers.

Method: small literal events as they were recorded or documented, read as plain JSON on the other
side.
"""

import json
from typing import Any, Final

import pytest

from relay.translate import AnswerTerms, StreamTranslator, Trouble, read_error, translate_answer
from relay.translate.kept import read_kept
from tests.pure.translate.plain import Json, call_delta, chunk, events
from tests.pure.translate.reading import TERMS, read_body
from tests.pure.translate.samples import ANTHROPIC, CHAT, DIALECTS, GEMINI, PNG, RESPONSES, sse

DONE: Final = b"data: [DONE]\n\n"


def body_of(source: Any, client: Any, body: Json) -> Json:
    found = json.loads(translate_answer(source, client, json.dumps(body).encode(), TERMS).body)
    assert isinstance(found, dict)
    return found


# --- chat's many servers -----------------------------------------------------------------------


def test_mistrals_thinking_comes_in_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    parts = [thinking, {"type": "text", "text": "Hi."}, {"type": "odd"}, 7]
    stream = sse(chunk({"content": parts}), chunk({}, "stop")) + DONE
    found = events(CHAT, ANTHROPIC, stream)
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == [
        *("thinking_delta", "signature_delta", "text_delta")
    ]


def test_done_without_a_finish_reason_is_an_end_and_an_empty_stream_is_none() -> None:
    found = events(CHAT, ANTHROPIC, sse(chunk({"content": "Hi"})) + DONE)
    assert found[-1]["type"] == "message_stop"
    found = events(CHAT, ANTHROPIC, sse(call_delta(0, "c", "f", "{}")) + DONE)
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    assert events(CHAT, ANTHROPIC, DONE)[-1]["type"] == "error"


def test_a_second_answer_is_not_mixed_into_the_first() -> None:
    second = {"index": 1, "delta": {"content": "B"}, "finish_reason": None}
    both = {"choices": [{"index": 0, "delta": {"content": "A"}}, second]}
    found = events(CHAT, GEMINI, sse(both, chunk({}, "stop")) + DONE)
    assert found[0]["candidates"][0]["content"]["parts"] == [{"text": "A"}]
    assert "B" not in json.dumps(found)


def test_a_finish_reason_of_error_is_an_error() -> None:
    found = events(CHAT, RESPONSES, sse(chunk({"content": "A"}), chunk({}, "error")) + DONE)
    assert found[-1]["response"]["status"] == "failed"


def test_reasoning_details_of_different_kinds_stay_apart() -> None:
    details = [
        {"type": "reasoning.summary", "index": 0, "summary": "A"},
        {"type": "reasoning.summary", "index": 0, "summary": "B"},
        {"type": "reasoning.encrypted", "index": 0, "data": "x"},
        {"type": "reasoning.encrypted", "data": "y"},
    ]
    stream = sse(
        *[chunk({"reasoning_details": [detail]}) for detail in details],
        call_delta(0, "c", "f", "{}"),
        chunk({}, "tool_calls"),
    )
    translator = StreamTranslator(CHAT, ANTHROPIC, TERMS)
    translator.feed(stream + DONE)
    ((call_id, record),) = translator.take_signatures()
    assert call_id == "c"
    assert [
        block.get("summary") or block["data"]
        for block in read_kept(record, CHAT)[0]["reasoning_details"]
    ] == ["AB", "x", "y"]


def test_arguments_may_be_an_object_and_a_call_may_lack_its_id() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}
    stream = sse(chunk({"tool_calls": [call]}), chunk({}, "tool_calls")) + DONE
    part = events(CHAT, GEMINI, stream)[0]["candidates"][0]["content"]["parts"][0]
    assert part["functionCall"]["args"] == {"a": 1}
    assert part["functionCall"]["id"].startswith("call_")
    again = StreamTranslator(CHAT, GEMINI, AnswerTerms("n2", "m", 1)).feed(stream)
    assert part["functionCall"]["id"] not in again.decode()


def test_xai_leaves_reasoning_out_of_its_completion_tokens() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 45,
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    stream = sse(chunk({"content": "A"}, "stop", usage=usage)) + DONE
    found = events(CHAT, GEMINI, stream)[-1]["usageMetadata"]
    assert (found["candidatesTokenCount"], found["thoughtsTokenCount"]) == (5, 30)


def test_deepseek_and_moonshot_name_their_cache_otherwise() -> None:
    for name in ("prompt_cache_hit_tokens", "cached_tokens"):
        usage = {"prompt_tokens": 10, "completion_tokens": 1, name: 8}
        found = events(CHAT, RESPONSES, sse(chunk({"content": "A"}, "stop", usage=usage)) + DONE)
        counts = found[-1]["response"]["usage"]
        assert counts["input_tokens_details"]["cached_tokens"] == 8


def test_odd_shapes_beside_words_and_calls_are_no_reason_to_fail() -> None:
    usage = {"prompt_tokens": 5.0, "completion_tokens": "2"}
    odd = chunk({"content": "A", "images": "x", "reasoning_details": {}}, citations={"a": 1})
    odd["choices"][0]["logprobs"] = {"tokens": ["A"]}
    found = events(CHAT, RESPONSES, sse(odd, chunk({}, "stop", usage=usage)) + DONE)
    counts = found[-1]["response"]["usage"]
    assert (counts["input_tokens"], counts["output_tokens"]) == (5, 2)
    translator = StreamTranslator(CHAT, RESPONSES, TERMS)
    translator.feed(sse(chunk({"content": "A"}, "stop", usage={"prompt_tokens": []})) + DONE)
    assert translator.over
    assert translator.lost == ("usage",)


def test_an_odd_citation_and_an_image_by_address_are_no_reason_to_fail() -> None:
    delta = {
        "content": "A",
        "annotations": [{"type": "file"}],
        "images": [{"image_url": {"url": "https://e.com/a.png"}}, {}],
    }
    found = events(CHAT, RESPONSES, sse(chunk(delta, "stop")) + DONE)
    assert found[-1]["type"] == "response.completed"


# --- Anthropic ---------------------------------------------------------------------------------


def test_blocks_of_a_servers_own_tools_are_lost_by_name() -> None:
    content = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "Hi"},
    ]
    body = {"type": "message", "content": content, "stop_reason": "brand_new"}
    answer = translate_answer(ANTHROPIC, CHAT, json.dumps(body).encode(), TERMS)
    assert answer.lost == (*("server_tool_use", "web_search_tool_result", "stop_reason=brand_new"),)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hi"


def test_an_error_body_and_an_unknown_event_of_anthropics() -> None:
    found = events(ANTHROPIC, CHAT, sse({"type": "brand_new"}, {"error": {"message": "Odd."}}))
    assert [event["error"]["message"] for event in found] == ["Odd."]
    answer = translate_answer(ANTHROPIC, CHAT, b'{"type":"error","error":{"message":"No."}}', TERMS)
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["message"] == "No."


def test_caches_written_for_an_hour_stay_told_apart() -> None:
    usage = {
        "input_tokens": 1,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_1h_input_tokens": 10},
        "output_tokens": 2,
    }
    body = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    answer = translate_answer(ANTHROPIC, CHAT, json.dumps(body).encode(), TERMS)
    assert answer.usage is not None
    assert answer.usage.cache_write_1h_tokens == 10
    said = read_body(ANTHROPIC, json.dumps(body).encode())
    assert said.usage == answer.usage


# --- Gemini ------------------------------------------------------------------------------------


def test_a_gemini_body_may_be_a_list_of_chunks_or_of_one_error() -> None:
    chunks = [
        {"candidates": [{"content": {"parts": [{"text": "A"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "B"}]}, "finishReason": "STOP"}]},
    ]
    answer = translate_answer(GEMINI, CHAT, json.dumps(chunks).encode(), TERMS)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "AB"
    failed = [{"error": {"code": 429, "message": "Slow.", "status": "RESOURCE_EXHAUSTED"}}]
    answer = translate_answer(GEMINI, ANTHROPIC, json.dumps(failed).encode(), TERMS)
    assert answer.status == 429
    assert json.loads(answer.body)["error"]["type"] == "rate_limit_error"


def test_what_gemini_ran_itself_and_the_works_it_recites_are_lost_by_name() -> None:
    parts = [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {}}, {"text": "1"}]
    candidate = {
        "content": {"parts": parts},
        "finishReason": "STOP",
        "citationMetadata": {"citationSources": [{}]},
        "groundingMetadata": {
            "groundingChunks": [{"web": {"uri": "https://e.com"}}, {}],
            "groundingSupports": [
                {"groundingChunkIndices": [0]},
                {"segment": {"endIndex": 1}, "groundingChunkIndices": [0, 1, 9]},
            ],
        },
    }
    body = {"candidates": [candidate, {"index": 1, "finishReason": "STOP"}]}
    answer = translate_answer(GEMINI, CHAT, json.dumps(body).encode(), TERMS)
    assert answer.lost == ("executableCode", "citationMetadata")
    notes = json.loads(answer.body)["choices"][0]["message"]["annotations"]
    assert len(notes) == 1


def test_an_unspecified_finish_reason_is_no_end() -> None:
    candidate = {"content": {"parts": [{"text": "A"}]}, "finishReason": "FINISH_REASON_UNSPECIFIED"}
    assert "error" in events(GEMINI, CHAT, sse({"candidates": [candidate]}))[-1]


# --- Responses ---------------------------------------------------------------------------------


def test_items_that_no_delta_announced_are_taken_from_their_last_copy() -> None:
    items: list[Json] = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"type": "image_generation_call", "result": PNG},
        {"type": "web_search_call"},
    ]
    stream = sse(
        *[
            {"type": "response.output_item.done", "output_index": index, "item": item}
            for index, item in enumerate(items)
        ],
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    translator = StreamTranslator(RESPONSES, CHAT, TERMS)
    out = translator.feed(stream)
    assert translator.lost == ("web_search_call",)
    assert [word in out for word in (b"Hm.", b"No.", PNG.encode())] == [True] * 3
    body = {"object": "response", "status": "completed", "output": items}
    message = body_of(RESPONSES, CHAT, body)["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["refusal"] == "No."
    calls = [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]
    assert calls == [{"a": 1}, {"input": "x"}]


def test_parts_of_a_summary_are_set_apart() -> None:
    stream = sse(
        *[
            event
            for text in ("A", "B")
            for event in (
                {"type": "response.reasoning_summary_part.added", "output_index": 0},
                {
                    "type": "response.reasoning_summary_text.delta",
                    "output_index": 0,
                    "delta": text,
                },
            )
        ],
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    deltas = [event["choices"][0]["delta"] for event in events(RESPONSES, CHAT, stream)[:-2]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "A\n\nB"


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_an_incomplete_response_says_why(reason: str, finish: str) -> None:
    details = {"incomplete_details": {"reason": reason}}
    body = {"object": "response", "status": "incomplete", "output": [], **details}
    assert body_of(RESPONSES, CHAT, body)["choices"][0]["finish_reason"] == finish
    stream = sse({"type": "response.incomplete", "response": body})
    assert events(RESPONSES, CHAT, stream)[-2]["choices"][0]["finish_reason"] == finish


def test_a_failed_response_is_an_error_in_a_stream_and_in_a_body() -> None:
    error = {"code": "rate_limit_exceeded", "message": "Try again in 1.5s."}
    usage = {"input_tokens": 3, "output_tokens": 0}
    body = {"object": "response", "status": "failed", "error": error, "usage": usage}
    answer = translate_answer(RESPONSES, GEMINI, json.dumps(body).encode(), TERMS)
    assert answer.status == 429
    translator = StreamTranslator(RESPONSES, ANTHROPIC, TERMS)
    out = translator.feed(sse({"type": "response.failed", "response": body}))
    assert b"rate_limit_error" in out
    assert b"Try again in 1.5s." in out
    assert translator.usage is not None
    assert translator.usage.input_tokens == 3
    assert events(RESPONSES, CHAT, sse({"error": {"message": "Odd."}}))[0]["error"]


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"error": {"message": "a", "code": 404}}, 404, None),
        ({"error": {"message": "a", "code": "503"}}, 503, None),
        ({"error": {"message": "a", "code": "²"}}, 502, None),
        ({"error": {"message": "a", "code": "9" * 5_000}}, 502, None),
        ({"error": {"message": "a", "status_code": 400, "code": "tool_use_failed"}}, 400, None),
        ({"error": {"message": "a", "type": "insufficient_quota"}}, 429, None),
        ({"error": {"message": "a", "code": "slow_down"}}, 503, "slow_down"),
        ({"error": "a", "code": "invalid-argument"}, 502, None),
        ({"message": "a"}, 502, None),
        ({}, 502, None),
        ("odd", 502, None),
    ],
)
def test_an_errors_status_is_found_where_none_came_with_it(
    body: object, status: int, code: str | None
) -> None:
    found = read_error(body)
    assert found.status == status
    assert code is None or found.code == code


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 418, 429, 500, 502, 503, 529])
def test_every_status_has_an_error_in_every_dialect(client: Any, status: int) -> None:
    source = CHAT if client is not CHAT else ANTHROPIC
    translator = StreamTranslator(source, client, TERMS)
    out = translator.fail(Trouble(status, "api_error", "Broken."))
    found = json.loads(out.partition(b"data: ")[2])
    assert "Broken." in json.dumps(found)
    if client is GEMINI:
        assert found["error"]["code"] == (503 if status == 529 else status)
    if client is ANTHROPIC:
        assert found["error"]["type"].endswith(("_error", "_large"))
