"""Chat completions and completions, whole and streamed, in OpenAI's shapes.

The events of a stream differ in one word only, so all else of them is rendered once a call: an
event costs one join.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Final, TypeAlias

from relay.mock.answers.answer import (
    CREATED_S,
    EVENT_STREAM,
    Event,
    MockAnswer,
    Turn,
    encode,
    event,
    failure,
    single,
)
from relay.mock.question import CHAT, Shape
from relay.mock.script import Passage

DONE: Final = b"data: [DONE]\n\n"

_Json: TypeAlias = dict[str, object]
_Wrap: TypeAlias = Callable[[int], tuple[bytes, bytes]]
"""Choice number -> what stands before and after the JSON string of a token in its event."""


def answer_chat(turn: Turn) -> MockAnswer:
    """Return the answer to POST chat/completions.

    Source: OpenAI API reference, "Chat Completions", chunk object and `stream_options`.
    """
    passages = [turn.passage(choice) for choice in range(turn.question.n)]
    if turn.question.stream:
        return _streamed(turn, passages, _chat_events(turn, passages))
    return _whole(turn, passages, "chat.completion", _chat_choice)


def answer_completion(turn: Turn) -> MockAnswer:
    """Return the answer to POST completions, OpenAI's older endpoint."""
    passages = [turn.passage(choice) for choice in range(turn.question.n)]
    if turn.question.stream:
        return _streamed(turn, passages, _completion_events(turn, passages))
    return _whole(turn, passages, "text_completion", _completion_choice)


# --- whole ------------------------------------------------------------------------------------


def _whole(
    turn: Turn,
    passages: list[Passage],
    kind: str,
    choice: Callable[[Turn, int, Passage], _Json],
) -> MockAnswer:
    body = _envelope(turn, kind)
    body["choices"] = [choice(turn, index, passage) for index, passage in enumerate(passages)]
    if turn.options.usage:
        body["usage"] = _usage(turn, passages)
    return single(body, _emitted(passages))


def _chat_choice(turn: Turn, index: int, passage: Passage) -> _Json:
    message: _Json = {"role": "assistant", "content": _echo(turn) + passage.text, "refusal": None}
    if turn.question.shape is Shape.TOOL:
        function = {"name": turn.question.tool, "arguments": passage.text}
        message["content"] = None
        message["tool_calls"] = [
            {"id": _tool_id(turn, index), "type": "function", "function": function}
        ]
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(turn, passage),
    }


def _completion_choice(turn: Turn, index: int, passage: Passage) -> _Json:
    return {
        "text": passage.text,
        "index": index,
        "logprobs": None,
        "finish_reason": _finish_reason(turn, passage),
    }


# --- streamed ---------------------------------------------------------------------------------


def _streamed(turn: Turn, passages: list[Passage], events: Iterable[Event]) -> MockAnswer:
    usage_event = b""
    if _reports(turn):
        usage_event = event(
            {**_envelope(turn, _chunk_kind(turn)), "choices": [], "usage": _usage(turn, passages)}
        )
    return MockAnswer(
        events=events,
        streamed=True,
        content_type=EVENT_STREAM,
        usage_event=usage_event,
        done_event=DONE if turn.options.done else b"",
        error_event=event(failure()),
    )


def _chat_events(turn: Turn, passages: list[Passage]) -> Iterator[Event]:
    opening, closing = _frame(turn)
    for index in range(len(passages)):
        for delta in _first_deltas(turn, index):
            yield _chat_event(opening, closing, index, delta, None), 0
    if turn.question.shape is Shape.TOOL:
        before, after = b'{"tool_calls":[{"index":0,"function":{"arguments":', b"}}]}"
    else:
        before, after = b'{"content":', b"}"

    def wrap(index: int) -> tuple[bytes, bytes]:
        return (
            b'%b{"index":%d,"delta":%b' % (opening, index, before),
            b'%b,"logprobs":null,"finish_reason":null}%b' % (after, closing),
        )

    yield from _token_events(turn, passages, wrap)
    for index, passage in enumerate(passages):
        reason = _finish_reason(turn, passage)
        yield _chat_event(opening, closing, index, {}, reason), 0


def _first_deltas(turn: Turn, index: int) -> Iterator[_Json]:
    """Yield what comes before the first token: the role, and a tool's name or an echoed prefix."""
    if turn.question.shape is Shape.TOOL:
        yield {"role": "assistant", "content": None}
        function = {"name": turn.question.tool, "arguments": ""}
        call = {"index": 0, "id": _tool_id(turn, index), "type": "function", "function": function}
        yield {"tool_calls": [call]}
        return
    yield {"role": "assistant", "content": ""}
    if _echo(turn):
        yield {"content": _echo(turn)}


def _chat_event(
    opening: bytes, closing: bytes, index: int, delta: _Json, finish_reason: str | None
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"".join((opening, encode(choice), closing))


def _completion_events(turn: Turn, passages: list[Passage]) -> Iterator[Event]:
    opening, closing = _frame(turn)

    def wrap(index: int) -> tuple[bytes, bytes]:
        after = b',"index":%d,"logprobs":null,"finish_reason":null}%b' % (index, closing)
        return opening + b'{"text":', after

    yield from _token_events(turn, passages, wrap)
    for index, passage in enumerate(passages):
        reason = _finish_reason(turn, passage)
        choice = {"text": "", "index": index, "logprobs": None, "finish_reason": reason}
        yield b"".join((opening, encode(choice), closing)), 0


def _token_events(turn: Turn, passages: list[Passage], wrap: _Wrap) -> Iterator[Event]:
    """Yield an event for each token, or for each few of them, the choices taking turns."""
    wraps = [wrap(index) for index in range(len(passages))]
    size = turn.options.tokens_per_event
    for row in zip_longest(*[list(_groups(passage.tokens, size)) for passage in passages]):
        for group, (before, after) in zip(row, wraps, strict=True):
            if group is not None:
                yield b"".join((before, encode("".join(group)), after)), len(group)


def _groups(tokens: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for begin in range(0, len(tokens), size):
        yield tokens[begin : begin + size]


def _frame(turn: Turn) -> tuple[bytes, bytes]:
    """Return what stands before and after the one choice of an event."""
    opening = encode(_envelope(turn, _chunk_kind(turn)))[:-1]
    tail = b',"usage":null' if _reports(turn) else b""
    return b'data: %b,"choices":[' % opening, b"]%b}\n\n" % tail


# --- parts of both ----------------------------------------------------------------------------


def _envelope(turn: Turn, kind: str) -> _Json:
    chat = turn.question.endpoint == CHAT
    return {
        "id": turn.identity("chatcmpl" if chat else "cmpl"),
        "object": kind,
        "created": CREATED_S,
        "model": turn.question.model,
        "system_fingerprint": turn.fingerprint,
    }


def _chunk_kind(turn: Turn) -> str:
    return "chat.completion.chunk" if turn.question.endpoint == CHAT else "text_completion"


def _reports(turn: Turn) -> bool:
    return turn.options.usage and turn.question.include_usage


def _usage(turn: Turn, passages: list[Passage]) -> _Json:
    prompt = turn.question.prompt_tokens
    completion = _emitted(passages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": turn.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _emitted(passages: list[Passage]) -> int:
    return sum(len(passage.tokens) for passage in passages)


def _finish_reason(turn: Turn, passage: Passage) -> str:
    if turn.question.shape is Shape.TOOL:
        return "tool_calls"
    return "length" if passage.cut else "stop"


def _echo(turn: Turn) -> str:
    """Return the prefix that an upstream like Mistral or llama.cpp repeats before it goes on."""
    asked = turn.options.echo_prefix and turn.question.resume in ("prefix", "trailing")
    return turn.question.prefix if asked else ""


def _tool_id(turn: Turn, index: int) -> str:
    return f"{turn.identity('call')}-{index}"
