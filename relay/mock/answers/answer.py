"""What the mock says, before it is put on the wire: events, each with the tokens it carries.

Nothing here or in the renderers knows of sockets or faults; `plan` frames an answer, `faults`
bends either.
"""

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from relay.mock.options import MockOptions
from relay.mock.question import MockQuestion, Shape
from relay.mock.script import Passage, continue_from, digest, json_object, prose, tool_arguments

JSON: Final = b"application/json"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
HTML: Final = b"text/html; charset=UTF-8"
TEXT: Final = b"text/plain; charset=utf-8"

CREATED_S: Final = 1_763_900_000
"""`created` of every answer: like its id it is a constant, so that a mock may answer the same
question again with the very same bytes."""

Event: TypeAlias = tuple[bytes, int]
"""The bytes of one event, its blank line included, and the completion tokens in it."""


class MockAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One whole answer.

    `events`: up to the one that ends the model's turn; read once. `streamed`: each event leaves
    in an HTTP chunk of its own; otherwise all are one body with its length. `usage_event`,
    `done_event`: what comes after, b"" = nothing. `error_event`: how this dialect says, in the
    middle of an answer, that it failed. `headers`: further header lines.
    """

    events: Iterable[Event]
    streamed: bool = False
    status: int = 200
    content_type: bytes = JSON
    usage_event: bytes = b""
    done_event: bytes = b""
    error_event: bytes = b""
    headers: bytes = b""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a renderer needs to know of one call."""

    question: MockQuestion
    options: MockOptions

    def identity(self, prefix: str) -> str:
        """Return an id that no other mock has, nor an answer of this one to other words."""
        return f"{prefix}-{self.options.name}-{digest(self.question.said).hex()}"

    @property
    def fingerprint(self) -> str:
        """Tells tests which mock answered."""
        return f"fp_{self.options.name}"

    @property
    def cached_tokens(self) -> int:
        """How much of the prompt a cache gave."""
        return cached_tokens(self.question, self.options)

    def passage(self, choice: int = 0) -> Passage:
        """Return what the model says as its answer number `choice`."""
        question, options = self.question, self.options
        root = digest(question.said, choice)
        if question.shape is Shape.TOOL:
            return Passage(tool_arguments(root), cut=False)
        write = json_object if question.shape is Shape.JSON else prose
        token_bytes = -(-options.body_bytes // options.chunks) if options.chunks else 0
        whole = write(root, options.chunks, token_bytes)
        return continue_from(whole, question.prefix, question.tokens_max)


def cached_tokens(question: MockQuestion, options: MockOptions) -> int:
    """Return how many tokens of the prompt a cache gave: at most all of them."""
    return min(options.cached_tokens, question.prompt_tokens)


def encode(value: object) -> bytes:
    """Return compact JSON."""
    return msgspec.json.encode(value)


def event(value: object, name: bytes = b"") -> bytes:
    r"""Return one server-sent event: `[event: name LF] data: JSON LF LF`.

    Source: WHATWG HTML, Server-sent events, "Parsing an event stream".
    """
    if name:
        return b"event: %b\ndata: %b\n\n" % (name, encode(value))
    return b"data: %b\n\n" % encode(value)


def single(value: object, tokens: int = 0) -> MockAnswer:
    """Return an answer of one JSON body, which an error may replace."""
    return MockAnswer(events=((encode(value), tokens),), error_event=encode(failure()))


def with_crlf(answer: MockAnswer) -> MockAnswer:
    """Return an event stream with the line ends that Gemini and sse-starlette send."""
    if answer.content_type != EVENT_STREAM:
        return answer
    return msgspec.structs.replace(
        answer,
        events=((payload.replace(b"\n", b"\r\n"), tokens) for payload, tokens in answer.events),
        usage_event=answer.usage_event.replace(b"\n", b"\r\n"),
        done_event=answer.done_event.replace(b"\n", b"\r\n"),
        error_event=answer.error_event.replace(b"\n", b"\r\n"),
    )


def failure() -> dict[str, dict[str, object]]:
    """Return an error object as providers send it inside a 200."""
    return {
        "error": {
            "message": "The server had an error while processing your request.",
            "type": "server_error",
            "param": None,
            "code": "server_error",
        }
    }
