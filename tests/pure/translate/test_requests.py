"""Requests field by field, where the tables of docs/translation.md do not show the value itself.

Method: literal bodies; what is written is read as plain JSON.
"""

import copy
import json
import re
from typing import Final

import pytest

from relay.errors import BadRequest
from relay.translate import TranslateDialect, Upstream, translate_request
from tests.pure.translate.plain import Json, asked
from tests.pure.translate.reading import UPSTREAM
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    FEATURES,
    GEMINI,
    PNG,
    REQUESTS,
    RESPONSES,
    SCHEMA,
)

PAIRS: Final = [(one, other) for one in DIALECTS for other in DIALECTS if one is not other]


def dropped(source: TranslateDialect, target: TranslateDialect, body: Json) -> tuple[str, ...]:
    return translate_request(source, target, body, UPSTREAM).dropped


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_body_is_never_changed_and_may_be_bytes_or_an_object(
    source: TranslateDialect, target: TranslateDialect, feature: str
) -> None:
    body = REQUESTS[source](feature)
    before = copy.deepcopy(body)
    found = translate_request(source, target, body, UPSTREAM)
    assert body == before
    assert translate_request(source, target, json.dumps(body).encode(), UPSTREAM) == found


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_a_request_asks_the_same(
    source: TranslateDialect, target: TranslateDialect
) -> None:
    for feature in ("text", "image", "tools", "parallel tools", "structured output"):
        body = REQUESTS[source](feature)
        there = translate_request(source, target, body, Upstream("m", breakpoints=False))
        back = asked(target, source, json.loads(there.body), Upstream("m", breakpoints=False))
        again = translate_request(source, target, back, Upstream("m", breakpoints=False))
        assert json.loads(again.body) == json.loads(there.body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        translate_request(CHAT, ANTHROPIC, body, UPSTREAM)


@pytest.mark.parametrize(
    ("target", "stream", "path"),
    [
        (CHAT, True, "/chat/completions"),
        (ANTHROPIC, True, "/messages"),
        (RESPONSES, False, "/responses"),
        (GEMINI, True, "/models/upstream-model:streamGenerateContent?alt=sse"),
        (GEMINI, False, "/models/upstream-model:generateContent"),
    ],
)
def test_each_dialect_has_its_path(target: TranslateDialect, path: str, *, stream: bool) -> None:
    source = ANTHROPIC if target is not ANTHROPIC else CHAT
    body = {**REQUESTS[source]("text"), "stream": stream}
    request = translate_request(source, target, body, UPSTREAM)
    assert request.path == path
    assert request.stream is stream
    assert json.loads(request.body).get("stream", False) is (stream and target is not GEMINI)
    terms = request.terms("n", "m", 7)
    assert (terms.nonce, terms.model, terms.created_s) == ("n", "m", 7)


def test_a_gemini_client_says_by_its_path_whether_it_wants_a_stream() -> None:
    request = translate_request(GEMINI, CHAT, REQUESTS[GEMINI]("text"), UPSTREAM, stream=True)
    body = json.loads(request.body)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    shy = Upstream("m", include_usage=False)
    request = translate_request(GEMINI, CHAT, REQUESTS[GEMINI]("text"), shy, stream=True)
    assert "stream_options" not in json.loads(request.body)


def test_names_of_fields_cannot_leave_their_header() -> None:
    body = {**REQUESTS[CHAT]("text"), "a\r\nx-evil: 1": 1, "é": 1}
    body |= {f"field_{n}": n for n in range(100)}
    found = dropped(CHAT, ANTHROPIC, body)
    assert len(found) <= 33
    assert "(a field)" in found or re.fullmatch(r"\d+ more", found[-1])
    header = ", ".join(found)
    assert header.isascii()
    assert "\n" not in header


def test_members_that_nobody_knows_are_listed_wherever_they_stand() -> None:
    body = REQUESTS[ANTHROPIC]("tools")
    body["tools"][0]["defer_loading"] = True
    body["messages"][0]["weight"] = 1
    assert set(dropped(ANTHROPIC, CHAT, body)) == {"tools.defer_loading", "messages.weight"}
    body = REQUESTS[GEMINI]("tools")
    body["tools"][0]["functionDeclarations"][0]["behavior"] = "NON_BLOCKING"
    body["generationConfig"]["mediaResolution"] = "LOW"
    assert set(dropped(GEMINI, CHAT, body)) == {
        "functionDeclarations.behavior",
        "generationConfig.mediaResolution",
    }


def test_models_that_refuse_sampling_are_not_told() -> None:
    body = {**REQUESTS[ANTHROPIC]("text"), "temperature": 0.5, "top_k": 3}
    request = translate_request(ANTHROPIC, CHAT, body, Upstream("o9", takes_sampling=False))
    assert "temperature" not in json.loads(request.body)
    assert set(request.dropped) == {"temperature", "top_k"}


def test_long_names_of_users_and_sessions_are_shortened_for_openai() -> None:
    body = {**REQUESTS[ANTHROPIC]("cache"), "metadata": {"user_id": "u" * 200}}
    found = asked(ANTHROPIC, CHAT, body, Upstream("m", cache_key="s" * 100))
    assert len(found["user"]) == 16
    assert len(found["prompt_cache_key"]) == 16
    assert asked(ANTHROPIC, RESPONSES, body)["safety_identifier"] == found["user"]
    back = {**REQUESTS[CHAT]("text"), "user": "u1"}
    assert asked(CHAT, ANTHROPIC, back)["metadata"] == {"user_id": "u1"}


def test_snake_case_is_read_from_geminis_clients() -> None:
    body = {
        "system_instruction": {"parts": [{"text": "Be short."}]},
        "contents": [
            {"parts": [{"inline_data": {"mime_type": "image/png", "data": PNG}}]},
        ],
        "generation_config": {
            "max_output_tokens": 9,
            "response_mime_type": "application/json",
            "response_schema": {"type": "OBJECT"},
            "thinking_config": {"thinking_level": "high", "include_thoughts": True},
            "top_k": 4.0,
        },
        "tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        "tool_config": {"function_calling_config": {"mode": "VALIDATED"}},
    }
    request = translate_request(GEMINI, ANTHROPIC, body, Upstream("m", breakpoints=False))
    found = json.loads(request.body)
    assert found["system"] == [{"type": "text", "text": "Be short."}]
    assert found["messages"][0]["content"][0]["source"]["data"] == PNG
    assert found["max_tokens"] == 9
    assert found["output_config"]["format"]["schema"] == {"type": "object"}
    assert found["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert found["tool_choice"] == {"type": "auto"}
    assert found["top_k"] == 4
    assert request.dropped == (
        "toolConfig.functionCallingConfig.mode=VALIDATED",
        "generationConfig.thinkingConfig",  # 9 tokens leave no room for it
    )


def test_a_gemini_models_age_decides_how_it_is_told_to_think() -> None:
    body = {**REQUESTS[CHAT]("text"), "reasoning_effort": "medium"}
    old = asked(CHAT, GEMINI, body, Upstream("gemini-2.5-pro"))["generationConfig"]
    assert old["thinkingConfig"] == {"thinkingBudget": 8192, "includeThoughts": True}
    new = asked(CHAT, GEMINI, body, Upstream("gemini-3-pro"))["generationConfig"]
    assert new["thinkingConfig"] == {"thinkingLevel": "MEDIUM", "includeThoughts": True}
    adaptive = {**REQUESTS[ANTHROPIC]("text"), "thinking": {"type": "adaptive"}}
    old = asked(ANTHROPIC, GEMINI, adaptive, Upstream("gemini-2.5-pro"))["generationConfig"]
    assert old["thinkingConfig"] == {"thinkingBudget": -1, "includeThoughts": True}
    off = {**REQUESTS[ANTHROPIC]("text"), "thinking": {"type": "disabled"}}
    for model, wanted in (
        ("gemini-2.5-flash", {"thinkingBudget": 0}),
        ("gemini-3-pro", {"thinkingLevel": "MINIMAL"}),
    ):
        config = asked(ANTHROPIC, GEMINI, off, Upstream(model))["generationConfig"]
        assert config["thinkingConfig"] == {**wanted, "includeThoughts": False}


@pytest.mark.parametrize(
    ("budget", "effort"), [(1024, "minimal"), (4000, "low"), (16_000, "medium"), (50_000, "high")]
)
def test_a_budget_becomes_an_effort(budget: int, effort: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    body = {**REQUESTS[ANTHROPIC]("text"), "thinking": thinking}
    assert asked(ANTHROPIC, CHAT, body)["reasoning_effort"] == effort
    found = asked(ANTHROPIC, RESPONSES, body)
    assert found["reasoning"] == {"effort": effort, "summary": "auto"}
    assert found["include"] == ["reasoning.encrypted_content"]
    assert found["store"] is False


def test_anthropics_highest_effort_is_openais_highest() -> None:
    thinking = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}
    assert (
        asked(ANTHROPIC, CHAT, {**REQUESTS[ANTHROPIC]("text"), **thinking})["reasoning_effort"]
        == "xhigh"
    )
    alone = {**REQUESTS[ANTHROPIC]("text"), "output_config": {"effort": "low"}}
    assert asked(ANTHROPIC, CHAT, alone)["reasoning_effort"] == "low"


def test_documents_and_sounds_take_the_shape_of_the_other_side() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "Hello."}
    inner = {"type": "content", "content": [{"type": "text", "text": "Inner."}]}
    documents = [
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": plain, "title": "T", "context": "C"},
        {"type": "document", "source": inner},
    ]
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": documents}]}
    content = asked(ANTHROPIC, CHAT, body)["messages"][0]["content"]
    data = "data:application/pdf;base64,JVBERi0="
    assert content == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        {"type": "text", "text": "T\nHello."},
        {"type": "text", "text": "Inner."},
    ]
    assert dropped(ANTHROPIC, CHAT, body) == ("messages[0].content[1].context",)
    content = asked(ANTHROPIC, RESPONSES, body)["input"][0]["content"]
    assert content[0] == {"type": "input_file", "filename": "a.pdf", "file_data": data}
    parts = asked(ANTHROPIC, GEMINI, body)["contents"][0]["parts"]
    assert parts[0] == {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}}
    back = asked(RESPONSES, ANTHROPIC, {"input": [{"role": "user", "content": content}]})
    assert back["messages"][0]["content"][0] == {**documents[0], **_mark(back)}

    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    heard = {"messages": [{"role": "user", "content": [sound]}]}
    parts = asked(CHAT, GEMINI, heard)["contents"][0]["parts"]
    assert parts == [{"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}]
    back = asked(GEMINI, CHAT, {"contents": [{"parts": parts}]})
    assert back["messages"][0]["content"] == [sound]


def _mark(body: Json) -> Json:
    block = body["messages"][0]["content"][0]
    return {"cache_control": block["cache_control"]} if "cache_control" in block else {}


def test_what_the_assistant_said_before_is_said_again() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "A"}, {"type": "refusal", "refusal": "B"}],
        },
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "Why?", "name": "Ann"},
    ]
    items = asked(CHAT, RESPONSES, {"messages": messages})["input"]
    assert [item["content"][0] for item in items] == [
        {"type": "input_text", "text": "Hi"},
        {"type": "output_text", "text": "A"},
        {"type": "refusal", "refusal": "B"},
        {"type": "input_text", "text": "So?"},
        {"type": "refusal", "refusal": "No."},
        {"type": "input_text", "text": "Why?"},
    ]
    assert dropped(CHAT, RESPONSES, {"messages": messages}) == ("messages.name",)
    back = asked(RESPONSES, CHAT, {"input": items})["messages"]
    assert back[1] == {"role": "assistant", "content": "A", "refusal": "B"}
    parts = asked(CHAT, GEMINI, {"messages": messages})["contents"]
    assert [content["role"] for content in parts] == ["user", "model", "user", "model", "user"]


def test_results_that_a_system_message_parts_come_together_again() -> None:
    body = REQUESTS[CHAT]("parallel tools")
    body["messages"].insert(-1, {"role": "system", "content": "Hurry."})
    contents = asked(CHAT, GEMINI, body)["contents"]
    assert [len(content["parts"]) for content in contents] == [1, 2, 2]
    blocks = asked(CHAT, ANTHROPIC, body)["messages"][-1]["content"]
    assert [block["type"] for block in blocks] == ["tool_result", "tool_result"]


def test_answers_of_functions_keep_their_shape() -> None:
    body = REQUESTS[CHAT]("tools")
    body["messages"][-1]["content"] = '{"rain":true}'
    response = asked(CHAT, GEMINI, body)["contents"][2]["parts"][0]["functionResponse"]
    assert response["response"] == {"rain": True}
    body = REQUESTS[GEMINI]("tools")
    body["contents"][2]["parts"][0]["functionResponse"]["response"] = {"rain": True}
    assert asked(GEMINI, CHAT, body)["messages"][-1]["content"] == '{"rain":true}'
    failed = REQUESTS[ANTHROPIC]("tools")
    failed["messages"][-1]["content"][0]["is_error"] = True
    response = asked(ANTHROPIC, GEMINI, failed)["contents"][2]["parts"][0]["functionResponse"]
    assert response["response"] == {"error": "Rain 0."}
    back = asked(GEMINI, ANTHROPIC, asked(ANTHROPIC, GEMINI, failed))
    assert back["messages"][-1]["content"][0]["is_error"] is True
    assert dropped(ANTHROPIC, CHAT, failed) == ("tool_result.is_error",)


def test_details_of_images_stay_with_openai_and_are_listed_elsewhere() -> None:
    url = {"url": "https://e.com/a.png", "detail": "high"}
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}
    image = asked(CHAT, RESPONSES, body)["input"][0]["content"][0]
    assert image == {"type": "input_image", "image_url": url["url"], "detail": "high"}
    back = asked(RESPONSES, CHAT, {"input": [{"role": "user", "content": [image]}]})
    assert back["messages"][0]["content"][0]["image_url"] == url
    assert dropped(CHAT, ANTHROPIC, body) == ("image_url.detail",)
    assert dropped(CHAT, GEMINI, body) == ("image_url.detail",)


def test_some_tools_can_be_allowed_out_of_many() -> None:
    tool = REQUESTS[CHAT]("tools")["tools"][0]
    names = ("a", "b", "c")
    tools = [{**tool, "function": {**tool["function"], "name": name}} for name in names]
    allowed = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    for mode, word in (("required", "any"), ("auto", "auto")):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
        body = {**REQUESTS[CHAT]("text"), "tools": tools, "tool_choice": choice}
        found = asked(CHAT, ANTHROPIC, body)
        assert [one["name"] for one in found["tools"]] == ["a", "b"]
        assert found["tool_choice"]["type"] == word
        there = asked(CHAT, RESPONSES, body)["tool_choice"]
        assert there["mode"] == mode
        assert [one["name"] for one in there["tools"]] == ["a", "b"]
        assert asked(RESPONSES, CHAT, {**asked(CHAT, RESPONSES, body)})["tool_choice"] == choice
    calling = asked(CHAT, GEMINI, {**body, "tool_choice": choice})["toolConfig"]
    assert calling == {"functionCallingConfig": {"mode": "AUTO"}}
    assert dropped(CHAT, GEMINI, body) == ("tool_choice",)


def test_a_tool_without_a_schema_takes_nothing() -> None:
    body = {**REQUESTS[CHAT]("text"), "tools": [{"type": "function", "function": {"name": "f"}}]}
    nothing = {"type": "object", "properties": {}}
    assert asked(CHAT, ANTHROPIC, body)["tools"][0]["input_schema"] == nothing
    assert asked(CHAT, RESPONSES, body)["tools"][0] == {
        "type": "function",
        "name": "f",
        "parameters": nothing,
        "strict": False,
    }
    declared = asked(CHAT, GEMINI, body)["tools"][0]["functionDeclarations"]
    assert declared == [{"name": "f"}]


def test_strictness_is_kept() -> None:
    function = {"name": "f", "parameters": SCHEMA, "strict": True}
    body = {**REQUESTS[CHAT]("text"), "tools": [{"type": "function", "function": function}]}
    assert asked(CHAT, ANTHROPIC, body)["tools"][0]["strict"] is True
    assert asked(CHAT, RESPONSES, body)["tools"][0]["strict"] is True
    assert dropped(CHAT, GEMINI, body) == ("tools.strict",)
    loose = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    found = asked(CHAT, RESPONSES, {**REQUESTS[CHAT]("text"), "response_format": loose})
    assert "strict" not in found["text"]["format"]


def test_a_small_bound_is_raised_to_what_responses_takes_and_that_is_said() -> None:
    request = translate_request(
        ANTHROPIC, RESPONSES, {**REQUESTS[ANTHROPIC]("text"), "max_tokens": 1}, UPSTREAM
    )
    assert json.loads(request.body)["max_output_tokens"] == 16
    assert request.dropped == ("max_tokens",)


def test_text_as_the_whole_input_is_a_users_turn() -> None:
    assert asked(RESPONSES, CHAT, {"input": "Hi"})["messages"] == [
        {"role": "user", "content": "Hi"}
    ]
    assert asked(RESPONSES, CHAT, {"input": [{"role": "assistant", "content": "Hi"}]})[
        "messages"
    ] == [{"role": "assistant", "content": "Hi"}]
