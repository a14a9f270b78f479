"""What is read of an answer beside its usage: events of any dialect, and the error in a body."""

from typing import Any

import msgspec


class Choice(msgspec.Struct):
    """One of the answers that a chunk of the chat dialect belongs to."""

    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class Response(msgspec.Struct):
    """The response that an event of the Responses dialect tells of."""

    status: str | None = None
    error: Any = None


class Event(msgspec.Struct):
    """What can be judged of an event, whatever its dialect."""

    type: str | None = None
    code: str | int | None = None
    error: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    response: Response | None = None
    candidates: list[dict[str, Any]] | None = None
    promptFeedback: dict[str, Any] | None = None  # noqa: N815 - the wire's own name


class ErrorFields(msgspec.Struct):
    """What an upstream says is wrong."""

    code: str | int | None = None
    type: str | None = None
    param: str | None = None
    message: object = None


class FaultBody(msgspec.Struct):
    """A body that is an error."""

    error: ErrorFields
