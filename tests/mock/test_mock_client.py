"""Goal: the official openai client takes the mock for OpenAI, on every endpoint.

Method: AsyncOpenAI with nothing but base_url and key set against a mock on a free port; what it
parses is compared with what the scripted model says.
"""

import base64
import struct
from collections.abc import AsyncIterator, Iterable

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from relay.mock.options import MockOptions
from relay.mock.script import digest, prose, tool_arguments
from relay.mock.server import MockServer, start

ASKED: Iterable[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me."}]
WHOLE = "".join(prose(digest(b"Tell me."), 8))
TOOL: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "look_up"}}


@pytest.fixture
async def mock() -> AsyncIterator[MockServer]:
    server = await start(MockOptions(chunks=8, cached_tokens=1, api_key="sk-right"))
    yield server
    await server.close()


@pytest.fixture
async def client(mock: MockServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mock.url, api_key="sk-right", max_retries=0) as client:
        yield client


async def test_chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="m", messages=ASKED)
    assert answer.choices[0].message.content == WHOLE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 8)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


async def test_chat_stream_without_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="m", messages=ASKED, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)


async def test_chat_stream_with_usage_has_it_in_one_chunk_of_its_own(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 10
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)


async def test_the_stream_assistant_assembles_every_choice(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="m", messages=ASKED, n=2) as stream:
        answer = await stream.get_final_completion()
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["".join(prose(digest(b"Tell me.", choice), 8)) for choice in (0, 1)]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_on_tokens_cuts(client: AsyncOpenAI, limit: str) -> None:
    answer = await client.chat.completions.create(model="m", messages=ASKED, extra_body={limit: 3})
    assert answer.choices[0].message.content == "".join(prose(digest(b"Tell me."), 3))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_tools(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="m", messages=ASKED, tools=[TOOL], tool_choice="required"
    )
    async with client.chat.completions.stream(
        model="m", messages=ASKED, tools=[TOOL], tool_choice="required"
    ) as stream:
        streamed = await stream.get_final_completion()
    for choice in (answer.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        call = choice.message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "look_up"
        assert call.function.arguments == "".join(tool_arguments(digest(b"Tell me.")))


async def test_tools_that_are_only_offered_are_not_called(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="m", messages=ASKED, tools=[TOOL])
    assert answer.choices[0].message.tool_calls is None


async def test_json_mode(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="m", messages=ASKED, response_format={"type": "json_object"}
    )
    text = answer.choices[0].message.content
    assert text is not None
    assert text.startswith('{"answer":"')
    assert text.endswith('"}')


@pytest.mark.parametrize("flag", ["", "prefix", "partial"])
async def test_a_prefix_is_continued(client: AsyncOpenAI, mock: MockServer, flag: str) -> None:
    begun: dict[str, object] = {"role": "assistant", "content": WHOLE[:11]}
    if flag:
        begun[flag] = True
    stream = await client.chat.completions.create(
        model="m", messages=ASKED, stream=True, extra_body={"messages": [*ASKED, begun]}
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert WHOLE[:11] + text == WHOLE
    assert mock.served[-1].resume == (flag or "trailing")


async def test_completions(client: AsyncOpenAI) -> None:
    whole = await client.completions.create(model="m", prompt="Tell me.")
    assert whole.choices[0].text == WHOLE
    stream = await client.completions.create(
        model="m", prompt="Tell me.", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == WHOLE
    assert last.usage is not None
    assert last.usage.completion_tokens == 8


async def test_embeddings_are_the_same_as_floats_and_packed(client: AsyncOpenAI) -> None:
    plain = await client.embeddings.create(
        model="m", input=["one", "two"], encoding_format="float", dimensions=5
    )
    packed = await client.embeddings.create(
        model="m", input=["one", "two"], encoding_format="base64", dimensions=5
    )
    # The client unpacks base64 only where it asked for it by itself.
    vectors = [
        list(struct.unpack("<5f", base64.b64decode(str(row.embedding)))) for row in packed.data
    ]
    assert vectors == [row.embedding for row in plain.data]
    assert len(plain.data[1].embedding) == 5
    assert plain.data[0].embedding != plain.data[1].embedding
    assert (await client.embeddings.create(model="m", input="one", dimensions=5)).data[
        0
    ].embedding == plain.data[0].embedding


async def test_responses(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="m", input="Tell me.")
    assert answer.output_text == WHOLE
    cut = await client.responses.create(
        model="m", input=[{"role": "user", "content": "Tell me."}], max_output_tokens=2
    )
    assert cut.status == "incomplete"
    assert WHOLE.startswith(cut.output_text)
    assert cut.usage is not None
    assert (cut.usage.input_tokens, cut.usage.output_tokens) == (2, 2)


async def test_responses_stream(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="m", input="Tell me.") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == WHOLE
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"


async def test_moderations(client: AsyncOpenAI) -> None:
    verdict = await client.moderations.create(model="m", input=["a", "b"])
    assert [result.flagged for result in verdict.results] == [False, False]


async def test_rerank(client: AsyncOpenAI) -> None:
    answer = await client.post(
        "/rerank", cast_to=object, body={"model": "m", "query": "q", "documents": ["a", "b", "c"]}
    )
    assert isinstance(answer, dict)
    assert sorted(row["index"] for row in answer["results"]) == [0, 1, 2]


async def test_images(client: AsyncOpenAI) -> None:
    made = await client.images.generate(model="m", prompt="a stone", n=2)
    edited = await client.images.edit(model="m", prompt="a stone", image=b"\x89PNG...")
    assert made.data is not None
    assert edited.data is not None
    assert [len(made.data), len(edited.data)] == [2, 1]
    assert base64.b64decode(made.data[0].b64_json or "").startswith(b"\x89PNG")
    assert made.usage is not None
    assert made.usage.output_tokens == 2 * 272


async def test_speech_is_bytes(client: AsyncOpenAI) -> None:
    audio = await client.audio.speech.create(model="m", input="Tell me.", voice="alloy")
    assert audio.content.count(b"\xff\xfb\x90\x64") == 8
    assert len(audio.content) == 8 * 417


async def test_transcriptions(client: AsyncOpenAI) -> None:
    file = ("a.wav", bytes(range(256)) * 40)
    whole = await client.audio.transcriptions.create(model="m", file=file)
    text = await client.audio.transcriptions.create(model="m", file=file, response_format="text")
    stream = await client.audio.transcriptions.create(model="m", file=file, stream=True)
    events = [event async for event in stream]
    spoken = "".join([event.delta for event in events if event.type == "transcript.text.delta"])
    assert whole.text == "".join(prose(digest(file[1]), 8))
    assert text.strip() == spoken == whole.text
    assert events[-1].type == "transcript.text.done"


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["mock-model", "mock-embedding"]
    assert (await client.models.retrieve("any/name")).id == "any/name"


async def test_a_wrong_key_is_refused(mock: MockServer) -> None:
    async with AsyncOpenAI(base_url=mock.url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    assert mock.state.rejected == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (402, openai.APIStatusError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (502, openai.InternalServerError),
        (503, openai.InternalServerError),
        (524, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
async def test_statuses_by_model_name(
    client: AsyncOpenAI, mock: MockServer, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        await client.chat.completions.create(model=f"fail-status:{status}", messages=ASKED)
    assert caught.value.status_code == status
    assert mock.served[-1].status == status
    assert (mock.served[-1].prompt_tokens, mock.served[-1].completion_tokens) == (0, 0)


async def test_retry_after(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="fail-retry-after:7", messages=ASKED)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("mode", ["error-first", "error-after:3"])
async def test_errors_inside_a_stream_raise(client: AsyncOpenAI, mode: str) -> None:
    stream = await client.chat.completions.create(model=f"fail-{mode}", messages=ASKED, stream=True)
    with pytest.raises(openai.APIError, match="had an error"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("mode", ["split-bytes", "long-event:200000", "no-done", "continue-100"])
async def test_odd_but_sound_streams_are_understood(client: AsyncOpenAI, mode: str) -> None:
    stream = await client.chat.completions.create(model=f"fail-{mode}", messages=ASKED, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == WHOLE
