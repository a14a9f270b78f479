"""What cannot be said to an upstream is refused by its place in the client's own body.

Method: one wrong or foreign part in an otherwise plain request.
"""

from typing import Any

import pytest

from relay.translate import Refused, TranslateDialect, Upstream, translate_request
from tests.pure.translate.plain import Json
from tests.pure.translate.reading import UPSTREAM
from tests.pure.translate.samples import ANTHROPIC, CHAT, GEMINI, REQUESTS, RESPONSES


@pytest.mark.parametrize(
    ("source", "target", "content", "param"),
    [
        (CHAT, ANTHROPIC, {"type": "video_url"}, "messages[0].content[0].type"),
        (
            CHAT,
            ANTHROPIC,
            {"type": "image_url", "image_url": 5},
            "messages[0].content[0].image_url",
        ),
        (
            CHAT,
            ANTHROPIC,
            {"type": "image_url", "image_url": "data:image/bmp;base64,AA"},
            "messages[0].content[0].image_url",
        ),
        (
            CHAT,
            ANTHROPIC,
            {"type": "image_url", "image_url": "data:image/png,AA"},
            "messages[0].content[0].image_url",
        ),
        (CHAT, ANTHROPIC, {"type": "file", "file": {}}, "messages[0].content[0].file"),
        (
            CHAT,
            ANTHROPIC,
            {"type": "file", "file": {"file_data": "data:text/csv;base64,AA"}},
            "messages[0].content[0].file",
        ),
        (
            CHAT,
            GEMINI,
            {"type": "image_url", "image_url": "https://example.com/x"},
            "messages[0].content[0].image_url",
        ),
        (ANTHROPIC, CHAT, {"type": "search_result"}, "messages[0].content[0].type"),
        (ANTHROPIC, CHAT, {"type": "image"}, "messages[0].content[0].source.type"),
        (
            ANTHROPIC,
            CHAT,
            {"type": "document", "source": {"type": "url", "url": "https://e.com/a.pdf"}},
            "messages[0].content[0]",
        ),
        (
            ANTHROPIC,
            CHAT,
            {"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}},
            "messages[0].content[0].source",
        ),
        (RESPONSES, CHAT, {"type": "input_audio"}, "input[0].content[0].type"),
        (
            RESPONSES,
            CHAT,
            {"type": "input_image", "file_id": "f"},
            "input[0].content[0].file_id",
        ),
        (RESPONSES, CHAT, 5, "input[0].content[0]"),
        (GEMINI, CHAT, {"executableCode": {}}, "contents[0].parts[0]"),
        (
            GEMINI,
            CHAT,
            {"functionResponse": {"name": "f", "parts": [{"fileData": {}}], "response": {}}},
            "contents[0].parts[0].functionResponse.parts[0]",
        ),
        (
            GEMINI,
            CHAT,
            {"functionResponse": {"name": "f", "response": {}}},
            "contents[0].parts[0].functionResponse",
        ),
    ],
)
def test_a_part_that_cannot_be_said_is_refused_by_its_place(
    source: TranslateDialect, target: TranslateDialect, content: Any, param: str
) -> None:
    if source is GEMINI:
        body: Json = {"contents": [{"role": "user", "parts": [content]}]}
    elif source is RESPONSES:
        body = {"input": [{"role": "user", "content": [content]}]}
    else:
        body = {"max_tokens": 9, "messages": [{"role": "user", "content": [content]}]}
    with pytest.raises(Refused) as refused:
        translate_request(source, target, body, UPSTREAM)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("source", "fields", "param"),
    [
        (ANTHROPIC, {"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        (ANTHROPIC, {"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        (ANTHROPIC, {"output_format": {"type": "xml"}}, "output_format.type"),
        (
            ANTHROPIC,
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages[0].content[0].type",
        ),
        (GEMINI, {"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        (GEMINI, {"generationConfig": {"responseMimeType": "text/x.enum"}}, None),
        (GEMINI, {"toolConfig": {"functionCallingConfig": {"mode": "X"}}}, None),
        (RESPONSES, {"input": [{"role": "robot", "content": ""}]}, "input[0].role"),
        (RESPONSES, {"input": [{"type": "compaction_trigger"}]}, "input[0].type"),
        (RESPONSES, {"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        (CHAT, {"tool_choice": {"type": "mcp"}}, "tool_choice"),
        (CHAT, {"tool_choice": {"type": "function"}}, "tool_choice.name"),
        (CHAT, {"tool_choice": 5}, "tool_choice"),
        (
            CHAT,
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [5]}},
            "tool_choice.tools",
        ),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
        (
            CHAT,
            {"messages": [{"role": "assistant", "function_call": {}}]},
            "messages[0].function_call",
        ),
        (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        (
            CHAT,
            {"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            CHAT,
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "custom": {}}]}]},
            "messages[0].tool_calls[0].type",
        ),
        (
            CHAT,
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "image_url", "image_url": "https://e.com/a.png"}],
                    }
                ]
            },
            "messages",
        ),
    ],
)
def test_what_is_wrong_is_named(source: TranslateDialect, fields: Json, param: str | None) -> None:
    targets = [one for one in (GEMINI, ANTHROPIC) if one is not source]
    for target in targets:
        with pytest.raises(Refused) as refused:
            translate_request(source, target, {**REQUESTS[source]("text"), **fields}, UPSTREAM)
        assert refused.value.status == 400
        assert param is None or refused.value.param == param


def test_what_would_grow_without_end_is_bounded() -> None:
    stops = [f"s{n}" for n in range(30)]
    with pytest.raises(Refused) as refused:
        translate_request(CHAT, RESPONSES, {**REQUESTS[CHAT]("text"), "stop": stops}, UPSTREAM)
    assert refused.value.param == "stop"
    with pytest.raises(Refused):
        fields = {"stop": ["x"], "logprobs": True}
        translate_request(CHAT, RESPONSES, {**REQUESTS[CHAT]("text"), **fields}, UPSTREAM)

    layers: Json = {"d0": {"type": "string"}}
    for n in range(1, 40):  # each refers to the one before twice: 2 ** 39 schemas
        below = {"$ref": f"#/$defs/d{n - 1}"}
        layers[f"d{n}"] = {"properties": {"a": below, "b": below}}
    schema = {"properties": {"x": {"$ref": "#/$defs/d39"}}, "$defs": layers}
    function = {"name": "f", "parameters": schema}
    body = {**REQUESTS[CHAT]("text"), "tools": [{"type": "function", "function": function}]}
    with pytest.raises(Refused) as refused:
        translate_request(CHAT, GEMINI, body, Upstream("m", json_schema_tools=False))
    assert refused.value.param == "tools"


def test_large_bodies_cost_no_more_than_their_length() -> None:
    count = 20_000
    calls = [{"functionCall": {"id": f"c{n}", "name": "f", "args": {}}} for n in range(count)]
    results = [
        {"functionResponse": {"id": f"c{n}", "name": "f", "response": {}}}
        for n in reversed(range(count))
    ]
    body: Json = {
        "contents": [{"role": "model", "parts": calls}, {"role": "user", "parts": results}],
        **{f"unknown{n}": n for n in range(count)},
    }
    request = translate_request(GEMINI, ANTHROPIC, body, UPSTREAM)
    assert len(request.dropped) == 33
