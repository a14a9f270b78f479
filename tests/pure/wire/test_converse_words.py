"""Goal: what Anthropic's API can ask is asked of Converse in its words, or refused by its name.

Method: requests field by field beside what they become, and answers with every kind of block.
"""

import base64
import json
from typing import Any

import pytest

from relay.errors import BadRequest
from relay.wire.kinds.converse import converse_request
from relay.wire.kinds.converse_answer import ConverseReader, message_of, usage_of_converse
from relay.wire.kinds.event_stream import Message, StreamGarbled

NOVA, CLAUDE = "amazon.nova-pro-v1:0", "eu.anthropic.claude-sonnet-5"
PICTURE = {"type": "base64", "media_type": "image/png", "data": "aGk="}


def asked(model: str = NOVA, betas: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
    return converse_request(body, model, betas or [])


def blocks(*content: dict[str, Any]) -> list[dict[str, Any]]:
    said = asked(messages=[{"role": "user", "content": list(content)}])
    found = said["messages"][0]["content"]
    assert isinstance(found, list)
    return found


def test_what_bounds_an_answer_is_said() -> None:
    said = asked(max_tokens=5, temperature=0.5, top_p=0.9, stop_sequences=["END"])
    assert said["inferenceConfig"] == {
        "maxTokens": 5,
        "temperature": 0.5,
        "topP": 0.9,
        "stopSequences": ["END"],
    }


def test_a_mark_for_the_cache_stands_behind_its_block() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    said = asked(
        system=[{"type": "text", "text": "Be brief.", "cache_control": mark}],
        tools=[{"name": "t", "input_schema": {}, "cache_control": {"type": "ephemeral"}}],
    )
    assert said["system"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert said["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default"}}


def test_pictures_and_documents_are_said() -> None:
    assert blocks({"type": "image", "source": PICTURE}) == [
        {"image": {"format": "png", "source": {"bytes": "aGk="}}}
    ]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    text = {"type": "text", "media_type": "text/plain", "data": "words"}
    said = blocks(
        {"type": "document", "source": pdf, "title": "a/b: 2.pdf"},
        {"type": "document", "source": text, "citations": {"enabled": True}},
    )
    named = {"format": "pdf", "name": "a b 2 pdf", "source": {"bytes": "aGk="}}
    assert said[0] == {"document": named}
    encoded = base64.b64encode(b"words").decode()
    assert said[1]["document"]["source"] == {"bytes": encoded}
    assert said[1]["document"]["citations"] == {"enabled": True}


def test_tools_their_calls_and_results_are_said() -> None:
    said = asked(
        messages=[
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "xx"},
                    {"type": "text", "text": ""},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [{"type": "image", "source": PICTURE}],
                    },
                ],
            },
        ],
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
        tool_choice={"type": "tool", "name": "look"},
    )
    assert said["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "xx"}},
        {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"a": 1}}},
    ]
    first, second = said["messages"][2]["content"]
    assert first["toolResult"] == {
        "toolUseId": "t1",
        "content": [{"text": "no"}],
        "status": "error",
    }
    assert "image" in second["toolResult"]["content"][0]
    assert said["toolConfig"]["toolChoice"] == {"tool": {"name": "look"}}


def test_structured_output_and_effort_are_said() -> None:
    schema = {"type": "object"}
    said = asked(
        output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
    )
    structure = {"jsonSchema": {"schema": json.dumps(schema, separators=(",", ":"))}}
    assert said["outputConfig"] == {
        "textFormat": {"type": "json_schema", "structure": structure},
        "effort": "low",
    }


@pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (5000, "medium"), (32000, "high")])
def test_a_budget_for_thinking_is_an_effort_where_the_model_is_not_claude(
    budget: int, effort: str
) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    assert asked(thinking=thinking)["outputConfig"] == {"effort": effort}
    assert "outputConfig" not in asked(thinking={"type": "disabled"})
    own = asked(CLAUDE, thinking=thinking)
    assert own["additionalModelRequestFields"] == {"thinking": thinking}


def test_what_is_anthropics_own_goes_on_to_claude_alone() -> None:
    said = asked(CLAUDE, betas=["b-1"], top_k=5, metadata={"user_id": "u-1"})
    assert said["additionalModelRequestFields"] == {"top_k": 5, "anthropic_beta": ["b-1"]}
    assert said["requestMetadata"] == {"user_id": "u-1"}
    assert "additionalModelRequestFields" not in asked(betas=["b-1"])
    with pytest.raises(BadRequest) as refused:
        asked(top_k=5)
    assert refused.value.param == "top_k"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": []}, "mcp_servers"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "t"}], "tool_choice": {"type": "none"}}, "tool_choice.type"),
        (
            {
                "tools": [{"name": "t"}],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            },
            "tool_choice.disable_parallel_tool_use",
        ),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        (
            {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": {"type": "url", "url": "http://x"}}
                        ],
                    }
                ]
            },
            "messages[0].content[0].source",
        ),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
    ],
)
def test_what_converse_has_no_words_for_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(**fields)
    assert refused.value.param == param


def told(kind: str, **said: Any) -> Message:
    headers = {":message-type": "event", ":event-type": kind}
    return Message(headers, json.dumps(said).encode())


def read(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.decode().split("\n") if line.startswith("data: ")]


def test_thinking_is_thinking_and_a_block_begins_by_itself() -> None:
    reader = ConverseReader("r")
    raw = b"".join(
        reader.event(message)
        for message in (
            told(
                "contentBlockDelta", contentBlockIndex=0, delta={"reasoningContent": {"text": "Hm"}}
            ),
            told(
                "contentBlockDelta",
                contentBlockIndex=0,
                delta={"reasoningContent": {"signature": "sig"}},
            ),
            told("contentBlockDelta", contentBlockIndex=1, delta={"text": "Yes"}),
            told("later", x=1),
            told("messageStop", stopReason="guardrail_intervened"),
            told("metadata", usage={"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}),
            told("metadata", usage={"inputTokens": 9, "outputTokens": 9, "totalTokens": 9}),
        )
    )
    events = read(raw)
    assert [event["type"] for event in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert events[2]["delta"] == {"type": "thinking_delta", "thinking": "Hm"}
    assert events[3]["delta"] == {"type": "signature_delta", "signature": "sig"}
    assert events[-2]["delta"]["stop_reason"] == "refusal"
    assert events[-2]["usage"]["output_tokens"] == 2 and reader.end() == b""


def test_output_that_was_malformed_is_no_end_but_an_error() -> None:
    reader = ConverseReader("r")
    reader.event(told("messageStart", role="assistant"))
    reader.event(told("messageStop", stopReason="malformed_tool_use"))
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    assert [e["type"] for e in read(reader.event(told("metadata", usage=usage)))] == [
        "message_delta",
        "error",
    ]


@pytest.mark.parametrize(
    "message",
    [
        Message({":message-type": "event", ":event-type": "metadata"}, b"nonsense"),
        told("contentBlockDelta", delta={}),
        told("contentBlockStart", contentBlockIndex=0, start={"image": {}}),
        told("metadata", usage={}),
    ],
)
def test_a_frame_that_is_not_what_it_says_is_garbled(message: Message) -> None:
    with pytest.raises(StreamGarbled):
        ConverseReader("r").event(message)


def test_a_whole_answer_with_every_kind_of_block() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "xx"}},
        {"citationsContent": {"content": [{"text": "Said "}, {"text": "there."}]}},
        {"guardContent": {}},
    ]
    answer = {
        "output": {"message": {"content": content}},
        "stopReason": "stop_sequence",
        "additionalModelResponseFields": {"stop_sequence": "END"},
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
    }
    said = json.loads(message_of(json.dumps(answer).encode(), "r", "m"))
    assert [block["type"] for block in said["content"]] == ["thinking", "redacted_thinking", "text"]
    assert said["content"][2]["text"] == "Said there."
    assert (said["stop_reason"], said["stop_sequence"]) == ("stop_sequence", "END")
    assert message_of(b"[]", "r", "m") == b"[]"


def test_what_was_written_for_an_hour_is_told_apart() -> None:
    usage = {
        "inputTokens": 1,
        "outputTokens": 2,
        "totalTokens": 33,
        "cacheWriteInputTokens": 30,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
    }
    said = usage_of_converse(usage)
    assert said["cache_creation_input_tokens"] == 30
    assert said["cache_creation"] == {"ephemeral_1h_input_tokens": 20}
