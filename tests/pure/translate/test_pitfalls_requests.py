"""What other gateways got wrong between the dialects, in requests: one test each.

Method: the smallest request that shows the mistake; what is written is read as plain JSON,
not by the floor's own readers.
"""

import json
from typing import Any, Final

import pytest

from relay.translate import (
    Refused,
    TranslateDialect,
    Upstream,
    translate_request,
)
from relay.translate.idents import legal_call_id
from relay.translate.schemas import from_openapi, prune
from tests.pure.translate.plain import Json, asked
from tests.pure.translate.reading import UPSTREAM
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    GEMINI,
    PNG,
    REQUESTS,
    RESPONSES,
    SCHEMA,
)

KIMI_ID: Final = "functions.Bash:0"


# --- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ANTHROPIC, GEMINI, RESPONSES])
def test_an_id_that_is_refused_elsewhere_is_cleaned_alike_on_both_sides(
    target: TranslateDialect,
) -> None:
    function = {"name": "Bash", "arguments": "{}"}
    for call_id in (KIMI_ID, "x" * 80):
        call = {"id": call_id, "type": "function", "function": function}
        messages = [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": "Done."},
        ]
        text = json.dumps(asked(CHAT, target, {"messages": messages}))
        assert call_id not in text
        assert text.count(legal_call_id(call_id)) == 2
        assert len(legal_call_id(call_id)) <= 64


def test_legal_ids_pass_and_different_ids_stay_different() -> None:
    assert legal_call_id("toolu_01-A") == "toolu_01-A"
    assert legal_call_id("a.b") != legal_call_id("a:b")
    assert legal_call_id("é") == legal_call_id("é")


# --- tool results ------------------------------------------------------------------------------


def _image_result() -> Json:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    uses = [{"type": "tool_use", "id": f"t{n}", "name": "look", "input": {}} for n in range(2)]
    results = [
        {"type": "tool_result", "tool_use_id": "t0", "content": [image]},
        {"type": "text", "text": "And?"},
        {"type": "tool_result", "tool_use_id": "t1", "content": "Nothing."},
    ]
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": uses},
        {"role": "user", "content": results},
    ]
    return {"max_tokens": 100, "messages": messages}


def test_an_image_in_a_result_goes_to_one_user_message_behind_all_results() -> None:
    messages = asked(ANTHROPIC, CHAT, _image_result())["messages"]
    assert [message["role"] for message in messages] == [
        *("user", "assistant", "tool", "tool", "user")
    ]
    assert isinstance(messages[2]["content"], str)
    kinds = [part["type"] for part in messages[4]["content"]]
    assert kinds == ["image_url", "text"]


def test_responses_keeps_an_image_in_its_result() -> None:
    items = asked(ANTHROPIC, RESPONSES, _image_result())["input"]
    result = next(item for item in items if item["type"] == "function_call_output")
    assert result["output"][0]["type"] == "input_image"


def test_all_answers_of_geminis_calls_stand_in_one_turn_in_the_order_of_the_calls() -> None:
    body = REQUESTS[CHAT]("parallel tools")
    body["messages"][-2:] = reversed(body["messages"][-2:])
    contents = asked(CHAT, GEMINI, body)["contents"]
    calls = [part["functionCall"]["id"] for part in contents[1]["parts"]]
    answers = [part["functionResponse"]["id"] for part in contents[2]["parts"]]
    assert answers == calls == ["call_0", "call_1"]


def test_geminis_answers_without_ids_are_paired_by_name_and_order() -> None:
    body = REQUESTS[GEMINI]("parallel tools")
    for content in body["contents"]:
        for part in content["parts"]:
            for name in ("functionCall", "functionResponse"):
                part.get(name, {}).pop("id", None)
    messages = asked(GEMINI, CHAT, body)["messages"]
    calls = [call["id"] for call in messages[2]["tool_calls"]]
    assert len(set(calls)) == 2
    assert [message["tool_call_id"] for message in messages[3:]] == calls
    assert [message["content"] for message in messages[3:]] == ["Rain 0.", "Rain 1."]


def test_a_result_without_its_call_is_refused_by_name() -> None:
    messages = [{"role": "tool", "tool_call_id": "x", "content": "Hm."}]
    with pytest.raises(Refused) as refused:
        asked(CHAT, GEMINI, {"messages": messages})
    assert refused.value.param == "messages[0]"
    assert refused.value.status == 400


# --- schemas -----------------------------------------------------------------------------------

RICH: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "kind": {"const": "a"},
        "size": {"type": ["integer", "null"], "exclusiveMinimum": 0},
        "place": {"$ref": "#/$defs/place"},
        "either": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "many": {"type": "array", "items": {"type": ["string", "integer"]}},
    },
    "propertyNames": {"pattern": "^[a-z]+$"},
    "additionalProperties": False,
    "$defs": {"place": {"type": "string", "minLength": 1}},
}


def test_gemini_is_given_json_schema_as_it_is_or_what_openapi_can_say_of_it() -> None:
    body = REQUESTS[CHAT]("tools")
    body["tools"][0]["function"]["parameters"] = RICH
    plain = asked(CHAT, GEMINI, body)["tools"][0]["functionDeclarations"][0]
    assert plain["parametersJsonSchema"] == RICH
    older = asked(CHAT, GEMINI, body, Upstream("m", json_schema_tools=False))
    assert older["tools"][0]["functionDeclarations"][0]["parameters"] == {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a"]},
            "size": {"type": "integer", "nullable": True},
            "place": {"type": "string", "minLength": 1},
            "either": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            "many": {
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
        },
    }


def test_a_schema_that_refers_to_itself_ends() -> None:
    looped: Json = {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    assert prune(looped)
    assert prune({"$ref": "#"}) == {}


def test_geminis_own_schema_becomes_json_schema() -> None:
    found = from_openapi(
        {
            "type": "OBJECT",
            "propertyOrdering": ["a"],
            "properties": {
                "a": {"type": "STRING", "nullable": True, "maxLength": "5"},
                "b": {"type": "ARRAY", "items": {"type": "INTEGER"}},
            },
        }
    )
    assert found == {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "maxLength": 5},
            "b": {"type": "array", "items": {"type": "integer"}},
        },
    }


@pytest.mark.parametrize("number", ["²", "9" * 5_000, "-1", ""])
def test_a_bound_of_geminis_schema_that_is_no_number_is_passed_on(number: str) -> None:
    assert from_openapi({"type": "STRING", "maxLength": number})["maxLength"] == number


# --- fields of the request ---------------------------------------------------------------------


def test_anthropic_gets_a_bound_even_if_the_client_gave_none() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert asked(CHAT, ANTHROPIC, body, Upstream("m", 64_000))["max_tokens"] == 64_000


def test_a_bound_has_the_name_that_the_server_knows() -> None:
    body = {**REQUESTS[ANTHROPIC]("text"), "max_tokens": 77}
    assert asked(ANTHROPIC, CHAT, body)["max_completion_tokens"] == 77
    old = asked(ANTHROPIC, CHAT, body, Upstream("m", legacy_max_tokens=True))
    assert old["max_tokens"] == 77
    assert asked(ANTHROPIC, GEMINI, body)["generationConfig"]["maxOutputTokens"] == 77


def test_a_budget_of_thinking_is_less_than_the_bound_or_there_is_none() -> None:
    body = {**REQUESTS[CHAT]("thinking"), "reasoning_effort": "high"}
    found = asked(CHAT, ANTHROPIC, body)
    assert 1024 <= found["thinking"]["budget_tokens"] < found["max_tokens"] == 4096
    request = translate_request(CHAT, ANTHROPIC, {**body, "max_completion_tokens": 512}, UPSTREAM)
    assert "thinking" not in json.loads(request.body)
    assert request.dropped == ("reasoning_effort",)


def test_thinking_excludes_sampling_and_a_forced_choice_excludes_thinking() -> None:
    body = {**REQUESTS[CHAT]("thinking"), "temperature": 0.2, "top_p": 0.9}
    request = translate_request(CHAT, ANTHROPIC, body, UPSTREAM)
    assert set(request.dropped) == {"temperature", "top_p"}
    assert "temperature" not in json.loads(request.body)
    tools = REQUESTS[CHAT]("tools")["tools"]
    forced = {**REQUESTS[CHAT]("thinking"), "tools": tools, "tool_choice": "required"}
    request = translate_request(CHAT, ANTHROPIC, forced, UPSTREAM)
    assert json.loads(request.body)["tool_choice"] == {"type": "any"}
    assert request.dropped == ("reasoning_effort",)


def test_a_temperature_over_1_is_clamped_and_said_so() -> None:
    body = {**REQUESTS[CHAT]("text"), "temperature": 1.7, "top_p": 0.5}
    request = translate_request(CHAT, ANTHROPIC, body, UPSTREAM)
    found = json.loads(request.body)
    assert found["temperature"] == 1.0
    assert "top_p" not in found
    assert request.dropped == ("temperature>1", "top_p")


def test_stop_sequences_that_cannot_be_sent_are_cut_at_here() -> None:
    body = {**REQUESTS[CHAT]("text"), "stop": ["\n", "END"]}
    request = translate_request(CHAT, ANTHROPIC, body, UPSTREAM)
    assert json.loads(request.body)["stop_sequences"] == ["END"]
    assert request.stops == ("\n",)
    many = {**REQUESTS[ANTHROPIC]("text"), "stop_sequences": list("abcde")}
    request = translate_request(ANTHROPIC, CHAT, many, UPSTREAM)
    assert json.loads(request.body)["stop"] == list("abcd")
    assert request.stops == ("e",)


def test_system_turns_keep_their_order_and_their_cache_marks() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "A", "cache_control": mark}]},
        {"role": "developer", "content": "B"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "system", "content": "C"},
        {"role": "user", "content": "Go"},
    ]
    request = translate_request(CHAT, ANTHROPIC, {"messages": messages}, UPSTREAM)
    found = json.loads(request.body)
    assert found["system"] == [
        {"type": "text", "text": "A", "cache_control": mark},
        {"type": "text", "text": "B"},
        {"type": "text", "text": "C"},
    ]
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]
    assert request.dropped == ("messages.system.position",)
    items = asked(CHAT, RESPONSES, {"messages": messages})
    assert items["instructions"] == "A"
    assert [item["role"] for item in items["input"]] == [
        *("developer", "user", "assistant", "system", "user")
    ]


def test_empty_texts_and_turns_do_not_reach_anthropic_and_calls_stay() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Hi?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "t", "content": ""},
        {"role": "assistant", "content": "So  "},
    ]
    found = asked(CHAT, ANTHROPIC, {"messages": messages}, Upstream("m", breakpoints=False))
    assert found["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Hi?"}],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "So"}]},
    ]


@pytest.mark.parametrize(
    ("chat", "anthropic", "gemini"),
    [
        ("auto", {"type": "auto"}, {"mode": "AUTO"}),
        ("required", {"type": "any"}, {"mode": "ANY"}),
        ("none", {"type": "none"}, {"mode": "NONE"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
        ),
    ],
)
def test_a_choice_of_tools_is_the_same_everywhere(chat: Any, anthropic: Json, gemini: Json) -> None:
    body = {**REQUESTS[CHAT]("tools"), "tool_choice": chat}
    assert asked(CHAT, ANTHROPIC, body)["tool_choice"] == anthropic
    assert asked(CHAT, GEMINI, body)["toolConfig"]["functionCallingConfig"] == gemini
    back = {**REQUESTS[ANTHROPIC]("tools"), "tool_choice": anthropic}
    assert asked(ANTHROPIC, CHAT, back)["tool_choice"] == chat
    back = {**REQUESTS[GEMINI]("tools"), "toolConfig": {"functionCallingConfig": gemini}}
    assert asked(GEMINI, CHAT, back)["tool_choice"] == chat


def test_parallel_calls_can_be_forbidden_on_both_sides() -> None:
    body = {**REQUESTS[CHAT]("tools"), "parallel_tool_calls": False}
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert asked(CHAT, ANTHROPIC, body)["tool_choice"] == choice
    back = {**REQUESTS[ANTHROPIC]("tools"), "tool_choice": choice}
    assert asked(ANTHROPIC, RESPONSES, back)["parallel_tool_calls"] is False
    assert translate_request(CHAT, GEMINI, body, UPSTREAM).dropped == ("parallel_tool_calls",)


def test_a_schema_for_the_answer_is_mapped_or_refused_never_ignored() -> None:
    for source in DIALECTS:
        body = REQUESTS[source]("structured output")
        if source is not CHAT:
            found = asked(source, CHAT, body)["response_format"]["json_schema"]
            assert found["schema"] == SCHEMA
        if source is not ANTHROPIC:
            wanted = {"type": "json_schema", "schema": SCHEMA}
            assert asked(source, ANTHROPIC, body)["output_config"]["format"] == wanted
        if source is not GEMINI:
            config = asked(source, GEMINI, body)["generationConfig"]
            assert config["responseJsonSchema"] == SCHEMA
    with pytest.raises(Refused) as refused:
        asked(CHAT, ANTHROPIC, {"messages": [], "response_format": {"type": "json_object"}})
    assert refused.value.param == "response_format"


def test_a_cache_is_told_where_to_end_and_a_key_stays_the_same_for_each_turn() -> None:
    body = REQUESTS[CHAT]("tools")
    found = asked(CHAT, ANTHROPIC, body)
    mark = {"type": "ephemeral"}
    assert found["tools"][-1]["cache_control"] == mark
    assert found["system"][-1]["cache_control"] == mark
    assert found["messages"][-1]["content"][-1]["cache_control"] == mark
    assert json.dumps(found).count("cache_control") == 4
    plain = asked(CHAT, ANTHROPIC, body, Upstream("m", breakpoints=False))
    assert "cache_control" not in json.dumps(plain)

    marked = REQUESTS[ANTHROPIC]("cache")
    first = asked(ANTHROPIC, CHAT, marked)["prompt_cache_key"]
    marked["messages"] += [
        {"role": "assistant", "content": "Rain."},
        {"role": "user", "content": "And Rome?"},
    ]
    assert asked(ANTHROPIC, RESPONSES, marked)["prompt_cache_key"] == first
    named = Upstream("m", cache_key="session-7")
    assert asked(ANTHROPIC, CHAT, marked, named)["prompt_cache_key"] == "session-7"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"stop": [1]}, "stop"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_has_no_equal_or_the_wrong_type_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(CHAT, ANTHROPIC, {**REQUESTS[CHAT]("text"), **fields})
    assert refused.value.param == param
    assert refused.value.status == 400
    assert param in str(refused.value)
