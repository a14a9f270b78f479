"""Every gate of a splice closes for its reason and nothing else: one fact changed at a time."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Channel, Dialect, Resume, Secret
from relay.records import Endpoint
from relay.routing.table import CHANNEL_FAILURES, Outcome
from relay.splice.gates import (
    Delivered,
    Facts,
    Means,
    SplicePlan,
    SpliceRefusal,
    anchored_bound,
    is_at_bound,
    means_on,
    plan_splice,
    refuse,
    remaining_tokens,
)
from relay.wire.refusals.blame import CLIENT_FAULT_CODES
from tests.pure.splice.scripted_stream import client_body, raw_fields

OPEN = Facts(
    plan=SplicePlan(endpoint=Endpoint.CHAT, refusal=None),
    sold=True,
    outcome=Outcome.CUT,
    in_time=True,
    delivered=Delivered(text="So far", tokens=2, events=3),
)


def changed(**facts: Any) -> SpliceRefusal | None:
    return refuse(msgspec.structs.replace(OPEN, **facts))


def plan(endpoint: Endpoint = Endpoint.CHAT, **more: Any) -> SplicePlan:
    return plan_splice(endpoint, raw_fields(client_body(endpoint, **more)))


def channel(resume: Resume, protocol: Dialect = Dialect.OPENAI) -> Channel:
    return Channel(
        id=1,
        name="other",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
        protocol=protocol,
        resume=resume,
    )


# --- what the request says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 1},
        {"n": None, "tools": [{"type": "function"}], "tool_choice": "auto"},
        {"tool_choice": "none", "response_format": {"type": "text"}, "logprobs": False},
        {"modalities": ["text"], "audio": None, "stop": None, "best_of": 1},
    ],
)
def test_plain_text_requests_pass(more: dict[str, Any]) -> None:
    assert plan(**more).refusal is None


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"n": 2}, SpliceRefusal.MANY_CHOICES),
        ({"best_of": 3}, SpliceRefusal.MANY_CHOICES),
        ({"response_format": {"type": "json_object"}}, SpliceRefusal.STRUCTURED),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, SpliceRefusal.STRUCTURED),
        ({"modalities": ["text", "audio"]}, SpliceRefusal.MODALITY),
        ({"audio": {"voice": "v"}}, SpliceRefusal.MODALITY),
        ({"logprobs": True}, SpliceRefusal.LOGPROBS),
        ({"tool_choice": "required"}, SpliceRefusal.FORCED_TOOL),
        ({"tool_choice": {"type": "function"}}, SpliceRefusal.FORCED_TOOL),
        ({"n": "two"}, SpliceRefusal.UNREADABLE),
        ({"stop": 5}, SpliceRefusal.UNREADABLE),
    ],
)
def test_requests_that_cannot_be_carried_on_are_known_before(
    more: dict[str, Any], refusal: SpliceRefusal
) -> None:
    assert plan(**more).refusal is refusal


@pytest.mark.parametrize(
    "more",
    [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": None}, {"echo": True}, {"suffix": "x"}],
)
def test_a_completion_goes_on_only_from_one_text(more: dict[str, Any]) -> None:
    assert plan(Endpoint.COMPLETIONS, **more).refusal is SpliceRefusal.PROMPT_FORM


def test_a_completion_from_one_text_passes() -> None:
    assert plan(Endpoint.COMPLETIONS, echo=False, suffix=None).refusal is None
    assert plan(Endpoint.COMPLETIONS, logprobs=0).refusal is SpliceRefusal.LOGPROBS


def test_invalid_utf8_in_a_field_that_decides_is_unreadable() -> None:
    fields = raw_fields(client_body(Endpoint.CHAT)) | {"stop": msgspec.Raw(b'"\xff"')}
    assert plan_splice(Endpoint.CHAT, fields).refusal is SpliceRefusal.UNREADABLE


SPLICED = (
    *(Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES, Endpoint.RESPONSES),
    Endpoint.STREAM_GENERATE,
)


@pytest.mark.parametrize("endpoint", [e for e in Endpoint if e not in SPLICED])
def test_no_other_endpoint_can_be_carried_on(endpoint: Endpoint) -> None:
    assert plan_splice(endpoint, {}).refusal is SpliceRefusal.ENDPOINT


def test_the_plan_keeps_what_the_seam_needs() -> None:
    found = plan(max_tokens=9, max_completion_tokens=7, stop=["a", ""], temperature=0.0)
    assert (found.tokens_max, found.stops, found.replayable) == (7, ("a",), True)
    assert found.usage_asked
    found = plan(stop="abc", seed=1, stream_options={})
    assert (found.tokens_max, found.stops, found.replayable) == (None, ("abc",), True)
    assert not found.usage_asked
    assert not plan(temperature=0.7).replayable


# --- what is known when it broke ------------------------------------------------------------------


def test_an_ordinary_break_is_carried_on() -> None:
    for outcome in CHANNEL_FAILURES | {Outcome.DRAINED}:
        assert changed(outcome=outcome, error_code="overloaded_error") is None


@pytest.mark.parametrize(
    ("facts", "refusal"),
    [
        ({"splices": 2}, SpliceRefusal.SPENT),
        ({"outcome": Outcome.CLIENT_FAULT}, SpliceRefusal.NOT_THE_CHANNEL),
        ({"in_time": False}, SpliceRefusal.OUT_OF_TIME),
        ({"delivered": None}, SpliceRefusal.NOT_KEPT),
        ({"sold": False}, SpliceRefusal.NOT_SOLD),
    ]
    + [
        ({"error_code": code}, SpliceRefusal.NOT_THE_CHANNEL) for code in sorted(CLIENT_FAULT_CODES)
    ],
)
def test_each_fact_alone_refuses(facts: dict[str, Any], refusal: SpliceRefusal) -> None:
    assert changed(**facts) is refusal


@pytest.mark.parametrize("refusal", SpliceRefusal)
def test_a_refusal_found_before_holds(refusal: SpliceRefusal) -> None:
    assert changed(plan=SplicePlan(endpoint=Endpoint.CHAT, refusal=refusal)) is refusal
    assert changed(delivered=Delivered(text="x", events=1, refusal=refusal)) is refusal


def test_while_no_event_is_out_any_request_may_start_anew() -> None:
    nothing = Delivered()
    forced = SplicePlan(endpoint=Endpoint.RESPONSES, refusal=SpliceRefusal.ENDPOINT)
    assert changed(delivered=nothing, plan=forced, sold=False) is None
    assert changed(delivered=nothing, splices=2) is SpliceRefusal.SPENT


@given(bound=st.integers(-5, 10), tokens=st.integers(0, 10))
def test_an_answer_without_its_last_word_lacks_a_token_at_least(bound: int, tokens: int) -> None:
    bounded = SplicePlan(endpoint=Endpoint.CHAT, refusal=None, tokens_max=bound)
    delivered = Delivered(text="x", tokens=tokens, events=1)
    assert remaining_tokens(bounded, delivered) == max(1, bound - tokens)
    assert anchored_bound(bounded, delivered, "") == max(1, bound - tokens)
    assert is_at_bound(bounded, delivered) is (tokens >= bound)
    assert changed(plan=bounded, delivered=delivered) is None


@pytest.mark.parametrize(
    ("text", "stops", "refused"),
    [
        ("so far", ("END",), False),
        ("so far E", ("END",), True),
        ("so far EN", ("x", "END"), True),
        ("so far END", ("END",), False),
        ("so far\n", ("\n\n",), True),
        ("so far\n", ("\n",), False),
    ],
)
def test_a_stop_sequence_that_may_have_begun_refuses(
    text: str,
    stops: tuple[str, ...],
    refused: bool,
) -> None:
    stopping = SplicePlan(endpoint=Endpoint.CHAT, refusal=None, stops=stops)
    found = changed(plan=stopping, delivered=Delivered(text=text, tokens=1, events=1))
    assert found is (SpliceRefusal.STOP_AT_SEAM if refused else None)


# --- what a channel can ---------------------------------------------------------------------------

CHAT_PLAN = SplicePlan(endpoint=Endpoint.CHAT, refusal=None)
FIXED_PLAN = SplicePlan(endpoint=Endpoint.CHAT, refusal=None, replayable=True)
TEXT_PLAN = SplicePlan(endpoint=Endpoint.COMPLETIONS, refusal=None)
SHORT = Delivered(text="x", tokens=200, events=1)
LONG = Delivered(text="x", tokens=201, events=1)


@pytest.mark.parametrize(
    ("resume", "found_plan", "delivered", "means"),
    [
        (Resume.NONE, CHAT_PLAN, SHORT, None),
        (Resume.PREFIX, CHAT_PLAN, LONG, Means.CONTINUE),
        (Resume.NONE, FIXED_PLAN, SHORT, Means.REPLAY),
        (Resume.NONE, FIXED_PLAN, LONG, None),
        (Resume.TRAILING, FIXED_PLAN, SHORT, Means.CONTINUE),
        (Resume.NONE, TEXT_PLAN, LONG, Means.CONTINUE),
        (Resume.NONE, CHAT_PLAN, Delivered(), Means.RESTART),
        (Resume.NONE, CHAT_PLAN, Delivered(text=" \n", tokens=1, events=2), Means.RESTART),
    ],
)
def test_the_means_of_a_channel(
    resume: Resume, found_plan: SplicePlan, delivered: Delivered, means: Means | None
) -> None:
    assert means_on(channel(resume), found_plan, delivered) is means


@pytest.mark.parametrize("protocol", [Dialect.ANTHROPIC, Dialect.GEMINI])
def test_another_dialect_carries_nothing_on(protocol: Dialect) -> None:
    assert means_on(channel(Resume.TRAILING, protocol), CHAT_PLAN, SHORT) is None
