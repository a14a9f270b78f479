"""One official openai client for Python, told line by line what to do; runs under 2.x and 3.x.

Goal: say what the client made of an answer. Method: a JSON line in (`scenario`, `base_url`,
`api_key`, `options`), a JSON line out (`value` or `failure`); nothing but URL and key is ever set.
It knows nothing of the relay and judges nothing; node/client.js has the same scenarios.
"""

import asyncio
import base64
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import openai
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
)
from pydantic import BaseModel

Facts = dict[str, Any]
"""What a scenario saw, as JSON."""

MODEL: Final = "gpt-test"
SAID: Final = "Tell me."
ASKED: Final[Iterable[ChatCompletionMessageParam]] = [{"role": "user", "content": SAID}]
TOOL: Final[ChatCompletionFunctionToolParam] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "note": {"type": "string"}},
            "required": ["query", "note"],
            "additionalProperties": False,
        },
    },
}
FILE: Final = bytes(range(256)) * 40
PATIENCE_S: Final = 0.5
"""How long a client with a timeout of its own waits for an answer that does not come."""


class Reply(BaseModel):
    """The structure that the parse helper fills."""

    answer: str


def version(_client: OpenAI) -> Facts:
    return {"version": openai.__version__}


# --- text -------------------------------------------------------------------------------------


def chat(
    client: OpenAI, model: str = MODEL, padding_bytes: int = 0, max_retries: int | None = None
) -> Facts:
    if max_retries is not None:
        client = client.with_options(max_retries=max_retries)
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "x" * padding_bytes},
        *ASKED,
    ]
    answer = client.chat.completions.create(model=model, messages=messages)
    return {**_completion(answer), "request_id": answer._request_id}


def chat_stream(client: OpenAI, include_usage: bool) -> Facts:
    if include_usage:
        stream = client.chat.completions.create(
            model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    else:
        stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return {
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish_reasons": [choice.finish_reason for choice in choices if choice.finish_reason],
        "usages": [_usage(chunk) for chunk in chunks if chunk.usage],
        "empty_chunks": sum(not chunk.choices for chunk in chunks),
    }


async def chat_stream_assembled(client: AsyncOpenAI) -> Facts:
    async with client.chat.completions.stream(model=MODEL, messages=ASKED) as stream:
        return _completion(await stream.get_final_completion())


def tools(client: OpenAI) -> Facts:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[TOOL], tool_choice="required"
    )
    return _tool_call(answer)


async def tools_stream(client: AsyncOpenAI) -> Facts:
    async with client.chat.completions.stream(
        model=MODEL, messages=ASKED, tools=[TOOL], tool_choice="required"
    ) as stream:
        return _tool_call(await stream.get_final_completion())


def json_mode(client: OpenAI) -> Facts:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, response_format={"type": "json_object"}
    )
    return _completion(answer)


def parse(client: OpenAI) -> Facts:
    answer = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Reply)
    parsed = answer.choices[0].message.parsed
    return {"answer": parsed.answer if parsed else None}


def completions(client: OpenAI) -> Facts:
    whole = client.completions.create(model=MODEL, prompt=SAID)
    stream = client.completions.create(model=MODEL, prompt=SAID, stream=True)
    return {
        "whole": whole.choices[0].text,
        "streamed": "".join(choice.text for chunk in stream for choice in chunk.choices),
    }


def responses(client: OpenAI) -> Facts:
    answer = client.responses.create(model=MODEL, input=SAID)
    usage = answer.usage
    return {
        "text": answer.output_text,
        "status": answer.status,
        "usage": [usage.input_tokens, usage.output_tokens] if usage else None,
    }


async def responses_stream(client: AsyncOpenAI) -> Facts:
    async with client.responses.stream(model=MODEL, input=SAID) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    return {"text": final.output_text, "status": final.status, "last": kinds[-1]}


# --- beside text ------------------------------------------------------------------------------


def embeddings(client: OpenAI) -> Facts:
    plain = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=["one", "two"])
    return {
        "plain": [row.embedding for row in plain.data],
        "packed": [row.embedding for row in packed.data],
    }


def batch(client: OpenAI) -> Facts:
    lines = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": ASKED, "max_tokens": 50},
        }
        for number in range(3)
    ]
    held = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    sent = client.files.create(file=("batch.jsonl", held), purpose="batch")
    made = client.batches.create(
        input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    listed = [one.id for one in client.batches.list()]
    cancelled = client.batches.create(
        input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    client.batches.cancel(cancelled.id)
    done = made
    for _ in range(100):
        done = client.batches.retrieve(made.id)
        if done.output_file_id:
            break
        time.sleep(PATIENCE_S / 10)
    told = client.files.content(done.output_file_id or "").text
    return {
        "listed": listed == [made.id],
        "status": done.status,
        "served": [json.loads(line)["custom_id"] for line in told.splitlines()],
    }


def models(client: OpenAI) -> Facts:
    listed = [model.id for model in client.models.list()]
    return {"listed": listed, "found": client.models.retrieve(MODEL).id}


def moderations(client: OpenAI) -> Facts:
    verdict = client.moderations.create(model=MODEL, input=["a", "b"])
    return {"flagged": [result.flagged for result in verdict.results]}


def images(client: OpenAI) -> Facts:
    made = client.images.generate(model=MODEL, prompt=SAID, n=2)
    edited = client.images.edit(model=MODEL, prompt=SAID, image=("a.png", FILE))
    return {
        "made": [_digest(base64.b64decode(image.b64_json or "")) for image in made.data or ()],
        "edited": [_digest(base64.b64decode(image.b64_json or "")) for image in edited.data or ()],
    }


def speech(client: OpenAI) -> Facts:
    audio = client.audio.speech.create(model=MODEL, input=SAID, voice="alloy")
    return {"audio": _digest(audio.content)}


def transcriptions(client: OpenAI) -> Facts:
    file = ("a.wav", FILE)
    whole = client.audio.transcriptions.create(model=MODEL, file=file)
    stream = client.audio.transcriptions.create(model=MODEL, file=file, stream=True)
    deltas = [event.delta for event in stream if event.type == "transcript.text.delta"]
    return {"whole": whole.text, "streamed": "".join(deltas)}


# --- what goes wrong --------------------------------------------------------------------------


def broken_stream(client: OpenAI) -> Facts:
    text, failure = "", None
    stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    try:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    except openai.OpenAIError as error:
        failure = _failure(error)
    return {"text": text, "failure": failure}


def broken_responses_stream(client: OpenAI) -> Facts:
    stream = client.responses.create(model=MODEL, input=SAID, stream=True)
    return {"last": [event.type for event in stream][-1]}


def broken_responses_assembled(client: OpenAI) -> Facts:
    with client.responses.stream(model=MODEL, input=SAID) as stream:
        try:
            return {"status": stream.get_final_response().status}
        except RuntimeError:
            return {"status": "failed"}  # this client's way to say that it was never completed


def leave_stream(client: OpenAI) -> Facts:
    stream = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    events = iter(stream)
    seen = [next(events) for _ in range(2)]
    stream.close()
    return {"seen": len(seen)}


async def leave_before_answer(client: AsyncOpenAI, stream: bool) -> Facts:
    async def call() -> None:
        await client.chat.completions.create(model=MODEL, messages=ASKED, stream=stream)

    task = asyncio.create_task(call())
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    await asyncio.wait([task])
    return {"cancelled": task.cancelled()}


def time_out(client: OpenAI) -> Facts:
    patient = client.with_options(timeout=PATIENCE_S, max_retries=0)
    return _completion(patient.chat.completions.create(model=MODEL, messages=ASKED))


# --- facts ------------------------------------------------------------------------------------


def _completion(answer: ChatCompletion) -> Facts:
    choice = answer.choices[0]
    return {
        "text": choice.message.content,
        "finish_reason": choice.finish_reason,
        "usage": _usage(answer),
    }


def _tool_call(answer: ChatCompletion) -> Facts:
    choice = answer.choices[0]
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    return {
        "name": call.function.name,
        "arguments": call.function.arguments,
        "finish_reason": choice.finish_reason,
    }


def _usage(answer: Any) -> list[int] | None:
    usage = answer.usage
    return [usage.prompt_tokens, usage.completion_tokens] if usage else None


def _digest(content: bytes) -> list[int | str]:
    return [len(content), hashlib.sha256(content).hexdigest()]


def _failure(error: Exception) -> Facts:
    return {
        "kind": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "request_id": getattr(error, "request_id", None),
        "message": str(error),
    }


# --- one line at a time -----------------------------------------------------------------------

SCENARIOS: Final[tuple[Callable[..., Facts | Awaitable[Facts]], ...]] = (
    version,
    chat,
    chat_stream,
    chat_stream_assembled,
    tools,
    tools_stream,
    json_mode,
    parse,
    completions,
    responses,
    responses_stream,
    embeddings,
    batch,
    models,
    moderations,
    images,
    speech,
    transcriptions,
    broken_stream,
    broken_responses_stream,
    broken_responses_assembled,
    leave_stream,
    leave_before_answer,
    time_out,
)


def main() -> None:
    """Answer every line of stdin until it ends."""
    scenarios = {scenario.__name__: scenario for scenario in SCENARIOS}
    for line in sys.stdin:
        ask = json.loads(line)
        scenario = scenarios[ask["scenario"]]
        try:
            answer = {"value": _play(scenario, ask)}
        except openai.OpenAIError as error:
            answer = {"failure": _failure(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _play(scenario: Callable[..., Any], ask: Facts) -> Facts:
    if inspect.iscoroutinefunction(scenario):
        return asyncio.run(_play_async(scenario, ask))
    with OpenAI(base_url=ask["base_url"], api_key=ask["api_key"]) as client:
        facts: Facts = scenario(client, **ask["options"])
    return facts


async def _play_async(scenario: Callable[..., Awaitable[Facts]], ask: Facts) -> Facts:
    async with AsyncOpenAI(base_url=ask["base_url"], api_key=ask["api_key"]) as client:
        return await scenario(client, **ask["options"])


if __name__ == "__main__":
    main()
