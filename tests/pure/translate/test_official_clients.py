"""The official clients' own types and accumulators take what is written, and read the same in it.

Method: streams and bodies of each dialect, translated to OpenAI's and Anthropic's, are validated
strictly event by event and accumulated by the code of the clients.
"""

import json
from typing import Any, Final

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from relay.translate import StreamTranslator, TranslateDialect, translate_answer
from tests.pure.translate.reading import TERMS, payloads
from tests.pure.translate.samples import (
    ANSWERS,
    ANTHROPIC,
    BODIES,
    CHAT,
    DIALECTS,
    FEATURES,
    GEMINI,
    RESPONSES,
    STREAMS,
    calls_of,
)

ANTHROPIC_EVENTS: Final[TypeAdapter[Any]] = TypeAdapter(RawMessageStreamEvent)
RESPONSES_EVENTS: Final[TypeAdapter[Any]] = TypeAdapter(ResponseStreamEvent)
CELLS: Final = [(source, feature) for source in DIALECTS for feature in FEATURES]


def events(source: TranslateDialect, client: TranslateDialect, feature: str) -> list[Any]:
    translator = StreamTranslator(source, client, TERMS)
    out = translator.feed(STREAMS[source](feature)) + translator.end()
    return [json.loads(found) for found in payloads(out) if found != b"[DONE]"]


def body(source: TranslateDialect, client: TranslateDialect, feature: str) -> Any:
    return json.loads(translate_answer(source, client, BODIES[source](feature), TERMS).body)


@pytest.mark.parametrize(("source", "feature"), CELLS)
def test_openai_takes_the_chunks(source: TranslateDialect, feature: str) -> None:
    if source is CHAT:
        return
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for event in events(source, CHAT, feature):
        state.handle_chunk(ChatCompletionChunk.model_validate(event, strict=True))
    whole = state.get_final_completion()
    message = whole.choices[0].message
    assert (message.content or "") == ANSWERS.get(feature, "")
    assert len(message.tool_calls or []) == calls_of(feature)
    for n, call in enumerate(message.tool_calls or []):
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": f"P{n}"}
    assert whole.choices[0].finish_reason == ("tool_calls" if calls_of(feature) else "stop")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 100
    assert whole.usage.completion_tokens == 20


@pytest.mark.parametrize(("source", "feature"), CELLS)
def test_anthropic_takes_the_events(source: TranslateDialect, feature: str) -> None:
    if source is ANTHROPIC:
        return
    opened: list[int] = []
    for event in events(source, ANTHROPIC, feature):
        known = ANTHROPIC_EVENTS.validate_python(event)
        if known.type == "content_block_start":
            opened.append(known.index)
        elif known.type == "content_block_delta":
            assert known.index == opened[-1]
    assert opened == list(range(len(opened)))
    message = Message.model_validate(body(source, ANTHROPIC, feature))
    texts = [block.text for block in message.content if block.type == "text"]
    uses = [block for block in message.content if block.type == "tool_use"]
    assert "".join(texts) == ANSWERS.get(feature, "")
    assert [use.input for use in uses] == [{"city": f"P{n}"} for n in range(calls_of(feature))]
    assert message.usage.input_tokens == 36
    assert message.usage.cache_read_input_tokens == 64


@pytest.mark.parametrize(("source", "feature"), CELLS)
def test_openai_takes_the_response_events(source: TranslateDialect, feature: str) -> None:
    if source is RESPONSES:
        return
    found = events(source, RESPONSES, feature)
    numbers = [RESPONSES_EVENTS.validate_python(event).sequence_number for event in found]
    assert numbers == list(range(len(found)))
    last = found[-1]
    assert last["type"] == "response.completed"
    for whole in (last["response"], body(source, RESPONSES, feature)):
        response = Response.model_validate(whole)
        assert response.output_text == ANSWERS.get(feature, "")
        calls = [item for item in response.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == [
            {"city": f"P{n}"} for n in range(calls_of(feature))
        ]
        assert all((call.id or "").startswith("fc_") for call in calls)
    by_item = {event["item_id"] for event in found if "item_id" in event}
    assert by_item <= {event["item"]["id"] for event in found if "item" in event}


@pytest.mark.parametrize(("source", "feature"), CELLS)
def test_openai_takes_the_whole_completion(source: TranslateDialect, feature: str) -> None:
    if source is CHAT:
        return
    whole = ChatCompletion.model_validate(body(source, CHAT, feature), strict=True)
    assert (whole.choices[0].message.content or "") == ANSWERS.get(feature, "")


@pytest.mark.parametrize(("source", "feature"), CELLS)
def test_no_line_of_a_gemini_stream_is_anything_but_a_chunk(
    source: TranslateDialect, feature: str
) -> None:
    if source is GEMINI:
        return
    translator = StreamTranslator(source, GEMINI, TERMS)
    out = translator.feed(STREAMS[source](feature)) + translator.end()
    chunks = out.split(b"\r\n\r\n")
    assert chunks.pop() == b""
    assert all(chunk.startswith(b"data: {") and b"\n" not in chunk for chunk in chunks)
    read = [json.loads(chunk[6:]) for chunk in chunks]
    assert read[-1]["candidates"][0]["finishReason"] == "STOP"
    assert read[-1]["usageMetadata"]["promptTokenCount"] == 100
