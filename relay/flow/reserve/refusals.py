"""What a client is told when a limit says no: whose limit, how much of it is used, and when again.

The words are OpenAI's own, which clients and people have learned to read.

Source: docs/limits.md, "Refusals".
"""

from typing import Final

from relay.errors import BadRequest, RateLimited, RelayError, Unavailable
from relay.flow.call import Call
from relay.limits.bucket import MINUTE_MS
from relay.limits.decision import Denied, Why
from relay.limits.rate_headers import go_duration
from relay.limits.scopes import Bucket, Measure

HELPFUL_WAIT_S: Final = 60.0
"""The official clients would not wait for longer: coming back is no use to them."""

_MEASURES: Final = {
    Measure.TOKENS: "tokens per min (TPM)",
    Measure.REQUESTS: "requests per min (RPM)",
}


def refusal(call: Call, denied: Denied, requested: int) -> RelayError:
    """Return the error that tells a call it was denied.

    Args:
        call: The call.
        denied: Why.
        requested: What it would have cost the bucket that binds.
    """
    if denied.why is Why.LOST:
        return Unavailable(
            "Limits cannot be checked now, and this line takes no calls without; try again.",
            retry_after_s=denied.wait_ms / 1_000,
        )
    if denied.why is Why.CROWDED or denied.limit is None:
        return Unavailable(
            "Too many calls wait for their limits; try again.", retry_after_s=denied.wait_ms / 1_000
        )
    limit = denied.limit
    if denied.why is Why.TOO_LARGE:
        assert isinstance(limit, Bucket)
        return _too_large(call, limit, requested)
    if isinstance(limit, Bucket):
        rate = limit.rule.per_minute
        # As OpenAI counts it: used + requested - limit is what has to flow in first.
        used = max(0, rate - requested - (-denied.wait_ms * rate // MINUTE_MS))
        said = (
            f"on {_MEASURES[limit.measure]}: Limit {rate}, Used {used}, Requested {requested}. "
            f"Please try again in {go_duration(denied.wait_ms).decode()}."
        )
        kind = limit.measure.value
    else:
        said = f"on requests at once: Limit {limit.permits}, Used {limit.permits}, Requested 1."
        kind = Measure.REQUESTS.value
    error = RateLimited(
        f"Rate limit reached for {_who(call)} {said} This limit is the {limit.scope.value}'s.",
        retry_after_s=denied.wait_ms / 1_000,
    )
    error.kind = kind
    if error.retry_after_s is not None and error.retry_after_s > HELPFUL_WAIT_S:
        error.should_retry = False
    return error


def _too_large(call: Call, limit: Bucket, requested: int) -> BadRequest:
    error = BadRequest(
        f"Request too large for {_who(call)} on {_MEASURES[limit.measure]}: "
        f"Limit {limit.rule.per_minute}, at once {limit.rule.capacity}, Requested {requested}. "
        "The input or output tokens must be reduced in order to run successfully. "
        f"This limit is the {limit.scope.value}'s."
    )
    error.code = "request_exceeds_limit"
    return error


def _who(call: Call) -> str:
    account = call.rights.account
    return f"{call.request.model} in organization {account.name if account else ''}"
