"""What is remembered of attempts that failed: enough for an operator to see why a call took long.

An attempt that is well leaves nothing here, and costs nothing.
"""

from relay.call import Try
from relay.clock import clock_s
from relay.errors import RelayError
from relay.flow.active import ActiveCall
from relay.flow.attempt import Attempt
from relay.routing.table import classify_error


def note_try(call: ActiveCall, attempt: Attempt, error: RelayError) -> None:
    """Remember that an attempt failed: our word for it, and a status; nothing an upstream said."""
    call.tries = (*call.tries, _describe(call, attempt, error))


def tries_of(call: ActiveCall) -> tuple[Try, ...]:
    """Return the attempts of a call that failed, those that nobody has noted yet among them."""
    return call.tries + tuple(
        _describe(call, attempt, attempt.error)
        for attempt in call.running
        if attempt.error is not None
    )


def _describe(call: ActiveCall, attempt: Attempt, error: RelayError) -> Try:
    return Try(
        attempt.channel.id,
        classify_error(error).value,
        attempt.refused_with,
        max(0, int((attempt.asked_s - call.begun_s) * 1e6)),
        max(0, int((clock_s() - attempt.asked_s) * 1e6)),
    )
