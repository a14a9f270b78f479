"""The way from a cut stream to what carries it on, gates and all; for the splice tests."""

from typing import Any

from relay.model import Channel, Resume, Secret
from relay.records import Endpoint
from relay.routing.table import Outcome
from relay.splice.delivered import read_delivered
from relay.splice.gates import Delivered, Facts, Means, SplicePlan, means_on, plan_splice, refuse
from relay.splice.rewrite import Continuation, continue_stream
from relay.splice.state import Rewriting
from tests.pure.splice.scripted_stream import Seen, raw_fields

WORDS = "Why did the crow cross?\n\n  Because  it could: over there were worms, and\tbread.\n"


def tokens_of(text: str, size: int = 4) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def channel(resume: Resume) -> Channel:
    return Channel(
        id=1,
        name="other",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
        resume=resume,
    )


def broken_at(
    out: list[bytes], body: dict[str, Any], endpoint: Endpoint
) -> tuple[SplicePlan, Delivered]:
    plan = plan_splice(endpoint, raw_fields(body))
    delivered = read_delivered(out, endpoint)
    facts = Facts(plan=plan, sold=True, outcome=Outcome.CUT, in_time=True, delivered=delivered)
    assert refuse(facts) is None
    return plan, delivered


def carried(
    out: list[bytes], body: dict[str, Any], endpoint: Endpoint, resume: Resume
) -> tuple[Means, Continuation]:
    plan, delivered = broken_at(out, body, endpoint)
    means = means_on(channel(resume), plan, delivered)
    assert means is not None
    continuation = continue_stream(
        means, resume, plan=plan, fields=raw_fields(body), delivered=delivered
    )
    assert isinstance(continuation, Continuation)
    return means, continuation


def run(splice: Rewriting, payloads: list[bytes], *, size: int = 1) -> bytes:
    """Feed the payloads in groups, as the events of one read come together."""
    blocks = [payloads[start : start + size] for start in range(0, len(payloads), size)]
    return b"".join(splice.feed(block) for block in blocks) + splice.end()


def check_like_uncut(out: list[bytes], more: list[bytes], uncut: list[bytes]) -> None:
    seen, whole = Seen(out + more), Seen(uncut)
    assert seen.text == whole.text
    assert seen.roles == whole.roles
    assert seen.reasons == whole.reasons == ["stop"]
    assert seen.identities == whole.identities
    assert seen.done == whole.done == 1
    assert [usage["total_tokens"] for usage in seen.usages] == [
        usage["total_tokens"] for usage in whole.usages
    ]
