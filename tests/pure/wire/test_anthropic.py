"""Our own words in Anthropic's dialect: statuses and types of errors, lists, what heads pass on."""

import json

import pytest

from relay.errors import (
    BadRequest,
    ChannelLimited,
    ChannelOverloaded,
    ChannelRefused,
    ChannelReportedError,
    ChannelTruncated,
    Conflict,
    DeadlineSpent,
    DependencyDown,
    Forbidden,
    MethodNotAllowed,
    ModelNotFound,
    QuotaExhausted,
    RateLimited,
    RelayError,
    RequestTimeout,
    ShuttingDown,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects import anthropic, openai
from relay.wire.dialects.anthropic import (
    BETA_CHARS_MAX,
    PING_EVENT,
    error_body,
    error_status,
    passed_on,
)
from relay.wire.dialects.known import TABLES


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        (BadRequest, 400, "invalid_request_error"),
        (Unauthenticated, 401, "authentication_error"),
        (QuotaExhausted, 402, "billing_error"),
        (Forbidden, 403, "permission_error"),
        (ModelNotFound, 404, "not_found_error"),
        (MethodNotAllowed, 405, "invalid_request_error"),
        (RequestTimeout, 408, "timeout_error"),
        (Conflict, 409, "conflict_error"),
        (TooLarge, 413, "request_too_large"),
        (RateLimited, 429, "rate_limit_error"),
        (ChannelLimited, 429, "rate_limit_error"),
        (RelayError, 500, "api_error"),
        (ChannelRefused, 502, "api_error"),
        (ShuttingDown, 503, "api_error"),
        (DependencyDown, 503, "api_error"),
        (DeadlineSpent, 504, "timeout_error"),
        (Unavailable, 529, "overloaded_error"),
        (ChannelOverloaded, 529, "overloaded_error"),
    ],
)
def test_every_error_has_its_status_and_type(
    kind: type[RelayError], status: int, told: str
) -> None:
    error = kind("Do this.")
    assert error_status(error) == TABLES[Dialect.ANTHROPIC].error_status(error) == status
    assert json.loads(error_body(error, "req_1")) == {
        "type": "error",
        "error": {"type": told, "message": "Do this."},
        "request_id": "req_1",
    }
    assert openai.error_status(error) == error.status


@pytest.mark.parametrize(
    ("code", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 502), ("odd", 502)],
)
def test_an_error_inside_an_answer_keeps_its_type(code: str, status: int) -> None:
    error = ChannelReportedError("Inside.", upstream_code=code)
    told = json.loads(error_body(error, "r"))["error"]["type"]
    assert (error_status(error), told) == (status, "api_error" if status == 502 else code)


def test_the_event_that_ends_a_broken_stream() -> None:
    event = anthropic.error_event(ChannelTruncated("Cut."), "req_1", Endpoint.MESSAGES)
    name, payload = event.split(b"\n", 1)
    assert name == b"event: error"
    assert json.loads(payload.removeprefix(b"data: "))["error"]["type"] == "api_error"
    assert event.endswith(b"}\n\n")
    assert TABLES[Dialect.ANTHROPIC].keep_alive == PING_EVENT


def test_models() -> None:
    listed = json.loads(anthropic.models_body(["a", "b"], 1_763_900_000))
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "a", "b")
    assert listed["data"][1] == json.loads(anthropic.model_body("b", 1_763_900_000))
    assert listed["data"][0]["created_at"] == "2025-11-23T12:13:20Z"
    empty = json.loads(anthropic.models_body([], 7))
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


def test_what_a_head_passes_on() -> None:
    assert passed_on(None, ()) == b"anthropic-version: 2023-06-01\r\n"
    assert passed_on("2026-10-21", ["a-1,b_2", "c:3"]) == (
        b"anthropic-version: 2026-10-21\r\nanthropic-beta: a-1,b_2,c:3\r\n"
    )


@pytest.mark.parametrize(
    ("version", "betas"),
    [
        ("", ()),
        ("2023-06-01\r\nHost: x", ()),
        ("2023-06-0１", ()),  # noqa: RUF001 - a digit of another script
        ("1" * 33, ()),
        (None, ["a\r\nb"]),
        (None, ["a\x00"]),
        (None, ["ä"]),
        (None, ["a" * BETA_CHARS_MAX, "b"]),
    ],
)
def test_what_could_break_a_head_is_refused(version: str | None, betas: list[str]) -> None:
    with pytest.raises(BadRequest):
        passed_on(version, betas)
