"""Goal: the official clients use tools over three turns with a model of any other dialect.

Method: openai (chat and Responses), anthropic and google-genai in the test's own loop, each against
a whole data plane with a scripted upstream of another dialect behind it: one call, then two at
once, then words. What the upstream was asked last is read back: the whole conversation.
"""

import abc
import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from anthropic import AsyncAnthropic
from google import genai
from google.genai import types
from openai import AsyncOpenAI

from relay.translate import TranslateDialect
from relay.translate.middle import Call, Result, Text
from tests.flow.rig import KEY, MODEL, Rig, make_snapshot
from tests.flow.translated_cells import Upstream, channel_of
from tests.pure.translate.reading import read_request
from tests.pure.translate.samples import (
    ANTHROPIC,
    BODIES,
    CHAT,
    DIALECTS,
    GEMINI,
    RESPONSES,
    SCHEMA,
    STREAMS,
)

PROMPT: Final = "Weather in Paris?"
ABOUT: Final = "Looks it up."
PAIRS: Final = [(one, other) for one in DIALECTS for other in DIALECTS if one is not other]


def answers(dialect: TranslateDialect, how: str) -> list[bytes]:
    """Return what the upstream says in three turns; no two calls have one id."""
    said = (STREAMS if how == "stream" else BODIES)[dialect]
    second = said("parallel tools").replace(b"call_0", b"call_7").replace(b"call_1", b"call_8")
    return [said("tools"), second, said("text")]


class Conversation(abc.ABC):
    """One client's side of it. `ask` returns (id, arguments) of the calls; `text`: the last words.

    `tell` takes the results of all calls, in their order.
    """

    def __init__(self, rig: Rig, how: str) -> None:
        self.rig = rig
        self.streamed = how == "stream"
        self.text = ""
        self.client: Any = None

    async def close(self) -> None:
        await self.client.close()

    @abc.abstractmethod
    async def ask(self) -> list[tuple[str, dict[str, Any]]]: ...

    @abc.abstractmethod
    def tell(self, results: list[tuple[str, str]]) -> None: ...


class ChatConversation(Conversation):
    def __init__(self, rig: Rig, how: str) -> None:
        super().__init__(rig, how)
        self.client = AsyncOpenAI(api_key=KEY, base_url=rig.url, max_retries=0)
        self.messages: list[Any] = [{"role": "user", "content": PROMPT}]

    async def ask(self) -> list[tuple[str, dict[str, Any]]]:
        function = {"name": "weather", "description": ABOUT, "parameters": SCHEMA, "strict": True}
        fields: Any = {
            "model": MODEL,
            "messages": self.messages,
            "tools": [{"type": "function", "function": function}],
        }
        if self.streamed:
            async with self.client.chat.completions.stream(**fields) as stream:
                whole = await stream.get_final_completion()
        else:
            whole = await self.client.chat.completions.create(**fields)
        message = whole.choices[0].message
        self.messages.append(message.model_dump(exclude_none=True))
        self.text = message.content or ""
        return [(c.id, json.loads(c.function.arguments)) for c in message.tool_calls or []]

    def tell(self, results: list[tuple[str, str]]) -> None:
        for call_id, result in results:
            self.messages.append({"role": "tool", "tool_call_id": call_id, "content": result})


class ResponsesConversation(Conversation):
    def __init__(self, rig: Rig, how: str) -> None:
        super().__init__(rig, how)
        self.client = AsyncOpenAI(api_key=KEY, base_url=rig.url, max_retries=0)
        self.items: list[Any] = [{"role": "user", "content": PROMPT}]

    async def ask(self) -> list[tuple[str, dict[str, Any]]]:
        tool = {"type": "function", "name": "weather", "description": ABOUT, "parameters": SCHEMA}
        fields: Any = {"model": MODEL, "input": self.items, "tools": [tool | {"strict": True}]}
        if self.streamed:
            async with self.client.responses.stream(**fields) as stream:
                whole: Any = await stream.get_final_response()
        else:
            whole = await self.client.responses.create(**fields)
        self.items += [item.model_dump(exclude_none=True) for item in whole.output]
        self.text = whole.output_text
        calls = [item for item in whole.output if item.type == "function_call"]
        for item in self.items:
            item.pop("parsed_arguments", None)
        return [(call.call_id, json.loads(call.arguments)) for call in calls]

    def tell(self, results: list[tuple[str, str]]) -> None:
        for call_id, result in results:
            output = {"type": "function_call_output", "call_id": call_id, "output": result}
            self.items.append(output)


class AnthropicConversation(Conversation):
    def __init__(self, rig: Rig, how: str) -> None:
        super().__init__(rig, how)
        url = rig.url.removesuffix("/v1")
        self.client = AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0)
        self.messages: list[Any] = [{"role": "user", "content": PROMPT}]

    async def ask(self) -> list[tuple[str, dict[str, Any]]]:
        tool = {"name": "weather", "description": ABOUT, "input_schema": SCHEMA}
        fields: Any = {
            "model": MODEL,
            "max_tokens": 4096,
            "messages": self.messages,
            "tools": [tool],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }
        if self.streamed:
            async with self.client.messages.stream(**fields) as stream:
                message = await stream.get_final_message()
        else:
            message = await self.client.messages.create(**fields)
        self.messages.append({"role": "assistant", "content": message.content})
        self.text = "".join(block.text for block in message.content if block.type == "text")
        calls = [block for block in message.content if block.type == "tool_use"]
        return [(call.id, dict(call.input)) for call in calls]

    def tell(self, results: list[tuple[str, str]]) -> None:
        content = [
            {"type": "tool_result", "tool_use_id": call_id, "content": result}
            for call_id, result in results
        ]
        self.messages.append({"role": "user", "content": content})


class GeminiConversation(Conversation):
    def __init__(self, rig: Rig, how: str) -> None:
        super().__init__(rig, how)
        options = types.HttpOptions(base_url=rig.url.removesuffix("/v1"))
        self.client = genai.Client(api_key=KEY, http_options=options)
        self.contents: list[Any] = [
            types.Content(role="user", parts=[types.Part.from_text(text=PROMPT)])
        ]

    async def close(self) -> None:
        await self.client.aio.aclose()
        self.client.close()

    async def ask(self) -> list[tuple[str, dict[str, Any]]]:
        function = types.FunctionDeclaration(
            name="weather", description=ABOUT, parameters_json_schema=SCHEMA
        )
        by_hand = types.AutomaticFunctionCallingConfig(disable=True)
        config = types.GenerateContentConfig(
            tools=[types.Tool(function_declarations=[function])], automatic_function_calling=by_hand
        )
        fields: Any = {"model": MODEL, "contents": self.contents, "config": config}
        models = self.client.aio.models
        parts: list[types.Part] = []
        if self.streamed:
            async for chunk in await models.generate_content_stream(**fields):
                parts += _parts_of(chunk)
        else:
            parts += _parts_of(await models.generate_content(**fields))
        self.contents.append(types.Content(role="model", parts=parts))
        self.text = "".join(part.text for part in parts if part.text and not part.thought)
        calls = [part.function_call for part in parts if part.function_call is not None]
        return [(call.id or "", dict(call.args or {})) for call in calls]

    def tell(self, results: list[tuple[str, str]]) -> None:
        parts = [
            types.Part(
                function_response=types.FunctionResponse(
                    id=call_id, name="weather", response={"output": result}
                )
            )
            for call_id, result in results
        ]
        self.contents.append(types.Content(role="user", parts=parts))


def _parts_of(answer: types.GenerateContentResponse) -> list[types.Part]:
    content = answer.candidates[0].content if answer.candidates else None
    return list(content.parts or []) if content is not None else []


CLIENTS: Final[dict[TranslateDialect, Callable[[Rig, str], Conversation]]] = {
    CHAT: ChatConversation,
    RESPONSES: ResponsesConversation,
    ANTHROPIC: AnthropicConversation,
    GEMINI: GeminiConversation,
}


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
@pytest.mark.parametrize("how", ["stream", "JSON"])
@pytest.mark.parametrize(("client", "dialect"), PAIRS, ids=lambda one: one.value)
async def test_three_turns_of_tools(
    client: TranslateDialect, dialect: TranslateDialect, how: str
) -> None:
    upstream = Upstream(dialect)
    async with (
        upstream.peer as peer,
        Rig(make_snapshot([channel_of(dialect, 1, peer.port)])) as rig,
    ):
        conversation = CLIENTS[client](rig, how)
        try:
            await _converse(conversation, upstream, how)
        finally:
            await conversation.close()
        ends = await rig.ended(3)
    assert [end.reason for end in ends] == ["completed"] * 3
    assert all(end.translated and end.output_tokens == 20 for end in ends)
    parts = [part for turn in read_request(dialect, upstream.asked).turns for part in turn.parts]
    assert [part.text for part in parts if isinstance(part, Text)] == [PROMPT]
    made = ["call_0", "call_7", "call_8"]
    assert [part.id for part in parts if isinstance(part, Call)] == made
    results = [part for part in parts if isinstance(part, Result)]
    assert [(result.call_id, _words(result)) for result in results] == [
        (call_id, f"Rain {call_id}.") for call_id in made
    ]


async def _converse(conversation: Conversation, upstream: Upstream, how: str) -> None:
    wanted = [["call_0"], ["call_7", "call_8"], []]
    for answer, ids in zip(answers(upstream.dialect, how), wanted, strict=True):
        upstream.say(how, answer)
        calls = await conversation.ask()
        assert [call_id for call_id, _ in calls] == ids
        assert [found for _, found in calls] == [{"city": f"P{n}"} for n in range(len(ids))]
        conversation.tell([(call_id, f"Rain {call_id}.") for call_id, _ in calls])
    assert conversation.text == "Rain in Paris."


def _words(result: Result) -> str:
    return "".join(part.text for part in result.parts if isinstance(part, Text))
