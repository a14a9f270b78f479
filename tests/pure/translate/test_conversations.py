"""The official clients hold a three-turn conversation with tools, over each foreign upstream.

Method: a transport in place of the network translates the client's bytes, lets a scripted upstream
of the other dialect answer, and translates back; nothing is listened on, nothing is patched. Turn 1
calls one tool, turn 2 two of them, turn 3 answers; streams and JSON.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import anthropic
import httpx2
import openai
import pytest

from relay.translate import (
    AnswerTerms,
    StreamTranslator,
    TranslateDialect,
    translate_answer,
    translate_request,
)
from relay.translate.middle import Call, Result
from tests.pure.translate.reading import UPSTREAM, read_request
from tests.pure.translate.samples import (
    ANTHROPIC,
    BODIES,
    CHAT,
    DIALECTS,
    RESPONSES,
    SCHEMA,
    STREAMS,
)

Json = dict[str, Any]
SCRIPT: Final = ("tools", "parallel tools", "text")
ANSWER: Final = "Rain in Paris."
SYSTEM: Final = "Be short."


class Translating(httpx2.BaseTransport):
    """Stands where the relay and an upstream of another dialect would be."""

    def __init__(self, client: TranslateDialect, upstream: TranslateDialect) -> None:
        self.client = client
        self.upstream = upstream
        self.kept: dict[str, str] = {}
        self.asked: list[Json] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer with the next line of the script."""
        source, target = self.client, self.upstream
        found = translate_request(
            source, target, request.read(), UPSTREAM, signatures=self.kept.get
        )
        feature = SCRIPT[len(self.asked)]
        terms = AnswerTerms(
            f"n{len(self.asked)}", "m", 1, found.include_usage, found.thinking_shown
        )
        self.asked.append(json.loads(found.body))
        # Ids are unique within a conversation, as they are at every provider.
        unique = f"call_{len(self.asked)}_".encode()
        if not found.stream:
            body = BODIES[target](feature).replace(b"call_", unique)
            answer = translate_answer(target, source, body, terms)
            self.kept.update(answer.signatures)
            return httpx2.Response(200, json=json.loads(answer.body))
        stream = STREAMS[target](feature).replace(b"call_", unique)
        content = b"".join(self._translated(stream, terms))
        kind = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=kind, content=content)

    def _translated(self, stream: bytes, terms: AnswerTerms) -> Iterator[bytes]:
        translator = StreamTranslator(self.upstream, self.client, terms)
        yield translator.feed(stream)
        yield translator.end()
        self.kept.update(translator.take_signatures())

    def check(self) -> None:
        """Tell whether the upstream saw all calls and results, each call answered once."""
        last = read_request(self.upstream, self.asked[-1])
        parts = [part for turn in last.turns for part in turn.parts]
        calls = [part.id for part in parts if isinstance(part, Call)]
        results = [part.call_id for part in parts if isinstance(part, Result)]
        assert len(calls) == 3
        assert results == calls
        assert [tool.name for tool in last.tools] == ["weather"]


def others(client: TranslateDialect) -> list[TranslateDialect]:
    return [dialect for dialect in DIALECTS if dialect is not client]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("upstream", others(CHAT))
def test_openais_chat_client(upstream: TranslateDialect, *, stream: bool) -> None:
    transport = Translating(CHAT, upstream)
    client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport))
    function = {"name": "weather", "description": "Looks it up.", "parameters": SCHEMA}
    messages: list[Any] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Weather in Paris?"},
    ]
    tools: Any = [{"type": "function", "function": function}]
    for _ in SCRIPT:
        asked: Any = {"model": "m", "messages": messages, "tools": tools}
        if stream:
            with client.chat.completions.stream(**asked) as chunks:
                message = chunks.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
            for call in message.tool_calls or []
        ]
    assert message.content == ANSWER
    transport.check()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("upstream", others(ANTHROPIC))
def test_anthropics_client(upstream: TranslateDialect, *, stream: bool) -> None:
    transport = Translating(ANTHROPIC, upstream)
    client = anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=transport))
    tools: Any = [{"name": "weather", "description": "Looks it up.", "input_schema": SCHEMA}]
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    for _ in SCRIPT:
        asked: Any = {
            "model": "m",
            "max_tokens": 4096,
            "system": SYSTEM,
            "messages": messages,
            "tools": tools,
            "thinking": thinking,
        }
        if stream:
            with client.messages.stream(**asked) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**asked)
        blocks = [block.model_dump(exclude_none=True) for block in message.content]
        messages.append({"role": "assistant", "content": blocks})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "Rain."}
            for block in message.content
            if block.type == "tool_use"
        ]
        if results:
            messages.append({"role": "user", "content": results})
    assert [block.text for block in message.content if block.type == "text"] == [ANSWER]
    transport.check()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("upstream", others(RESPONSES))
def test_openais_responses_client(upstream: TranslateDialect, *, stream: bool) -> None:
    transport = Translating(RESPONSES, upstream)
    client = openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport))
    function = {"name": "weather", "description": "Looks it up.", "parameters": SCHEMA}
    tools: Any = [{"type": "function", "strict": True, **function}]
    items: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    for _ in SCRIPT:
        asked: Any = {"model": "m", "input": items, "instructions": SYSTEM, "tools": tools}
        asked["reasoning"] = {"effort": "low", "summary": "auto"}
        if stream:
            with client.responses.stream(**asked) as events:
                response = events.get_final_response()
        else:
            response = client.responses.create(**asked)
        items += [item.model_dump(exclude_none=True) for item in response.output]
        for item in response.output:
            if item.type == "function_call":
                output = {"type": "function_call_output", "call_id": item.call_id}
                items.append({**output, "output": "Rain."})
    assert response.output_text == ANSWER
    transport.check()
