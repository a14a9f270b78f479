"""A span of each call, out of its row of the journal: no worker knows of it.

A call's trace has the call's own request id as its id, so that one is found by the other. The
client's `traceparent` goes on to the upstream as it is, and is not kept. Names of attributes are
those of OpenTelemetry's conventions where it has them; no address, key or content is among them.

Source: OpenTelemetry semantic conventions, "Semantic conventions for generative client AI spans".
"""

from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from relay.records import CallEnd, FailedTry

SCOPE: Final = InstrumentationScope("relay")
NS_PER_US: Final = 1_000
SERVER_FAULT: Final = 500
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def to_spans(ends: Sequence[CallEnd], resource: Resource) -> list[ReadableSpan]:
    """Return the spans of calls: one each, and one for each attempt that failed."""
    found = []
    for end in ends:
        call = _call_span(end, resource)
        found.append(call)
        found += [
            _try_span(end, number, one, call.context, resource)
            for number, one in enumerate(end.tries)
        ]
    return found


def _call_span(end: CallEnd, resource: Resource) -> ReadableSpan:
    ended_ns = end.time_us * NS_PER_US
    began_ns = ended_ns - end.total_us * NS_PER_US
    first = began_ns + end.ttft_us * NS_PER_US
    failed = end.status >= SERVER_FAULT
    return ReadableSpan(
        name=f"{end.endpoint} {end.model}".strip(),
        context=_context(end.request_id, 0),
        resource=resource,
        attributes=_attributes(end),
        events=[Event("gen_ai.first_byte", timestamp=first)] if end.ttft_us else [],
        kind=SpanKind.SERVER,
        instrumentation_scope=SCOPE,
        status=Status(StatusCode.ERROR, end.reason) if failed else Status(StatusCode.UNSET),
        start_time=began_ns,
        end_time=ended_ns,
    )


def _try_span(
    end: CallEnd, number: int, one: FailedTry, call: SpanContext, resource: Resource
) -> ReadableSpan:
    began_ns = (end.time_us - end.total_us + one.asked_us) * NS_PER_US
    return ReadableSpan(
        name="attempt",
        context=_context(end.request_id, number + 1),
        parent=call,
        resource=resource,
        attributes={
            "relay.channel_id": one.channel_id,
            "relay.outcome": one.outcome,
            "http.response.status_code": one.status,
        },
        kind=SpanKind.CLIENT,
        instrumentation_scope=SCOPE,
        status=Status(StatusCode.ERROR, one.outcome),
        start_time=began_ns,
        end_time=began_ns + one.took_us * NS_PER_US,
    )


def _attributes(end: CallEnd) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool] = {
        "gen_ai.request.model": end.model,
        "gen_ai.response.model": end.served_model,
        "gen_ai.usage.input_tokens": end.input_tokens,
        "gen_ai.usage.output_tokens": end.output_tokens,
        "http.response.status_code": end.status,
        "relay.account_id": end.account_id,
        "relay.attempts": end.attempts,
        "relay.cached_tokens": end.cached_tokens,
        "relay.channel_id": end.channel_id,
        "relay.cost_nanos": end.cost_nanos,
        "relay.key_id": end.key_id,
        "relay.line_id": end.line_id,
        "relay.outcome": end.reason,
        "relay.stream": end.stream,
        "url.path": end.endpoint,
    }
    if end.error_code:
        found["error.type"] = end.error_code
    return found


def trace_id(request_id: bytes) -> int:
    """Return the id of a call's trace: 16 bytes, as a request id has."""
    return int.from_bytes(request_id, "big")


def _context(request_id: bytes, number: int) -> SpanContext:
    # The last half of a request id is dice: it tells spans apart as well as new dice would.
    span_id = int.from_bytes(request_id[8:], "big") ^ (number << 48)
    return SpanContext(trace_id(request_id), span_id or 1, False, _SAMPLED)  # noqa: FBT003
