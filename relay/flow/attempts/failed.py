"""What is remembered of attempts that failed: enough for an operator to see why a call took long.

An attempt that is well leaves nothing here, and costs nothing.
"""

import msgspec

from relay.billing.price import charge
from relay.clock import clock_s
from relay.errors import CertificateInvalid, RelayError
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.model import AbortBills
from relay.records import FailedTry
from relay.routing.table import classify_error
from relay.units import PPM
from relay.usage import Usage
from relay.wire.usage.delivered_tokens import tokens_of_bytes


def note_failed_try(call: Call, attempt: Attempt, error: RelayError) -> None:
    """Remember that an attempt failed: our word for it, and a status; nothing an upstream said."""
    call.failed_tries = (*call.failed_tries, _describe(call, attempt, error))


def failed_tries_of(call: Call) -> tuple[FailedTry, ...]:
    """Return the attempts of a call that failed, those that nobody has noted yet among them."""
    return call.failed_tries + tuple(
        _describe(call, attempt, attempt.error)
        for attempt in call.open_attempts
        if attempt.error is not None
    )


def _describe(call: Call, attempt: Attempt, error: RelayError) -> FailedTry:
    return FailedTry(
        attempt.channel.id,
        _outcome(error),
        attempt.refused_with,
        max(0, int((attempt.asked_s - call.begun_s) * 1e6)),
        max(0, int((clock_s() - attempt.asked_s) * 1e6)),
    )


def _outcome(error: RelayError) -> str:
    """Return the word for what ended an attempt; of a certificate, what is wrong with it."""
    if isinstance(error, CertificateInvalid):
        return f"certificate_{error.flaw}"
    return classify_error(error).value


def note_operator_cost(call: Call, attempt: Attempt) -> None:
    """Add what an attempt cost that the client does not pay for; an attempt is noted once."""
    billed = attempt.answered or _bills_all_the_same(call, attempt)
    if not billed or attempt is call.payer or call.settled:
        return
    call.operator_input_tokens += call.request.input_estimate + attempt.prefix_tokens
    if not call.request.stream and call.request.counts_bytes:
        call.operator_output_tokens += tokens_of_bytes(attempt.bytes_in)


def _bills_all_the_same(call: Call, attempt: Attempt) -> bool:
    """Tell whether a client left a question that its provider answers, and bills, without it."""
    asked = attempt.asked_over is not None and not attempt.refused_with
    return call.gone and asked and attempt.channel.abort_bills is AbortBills.FULL


def operator_cost_nanos(call: Call) -> int:
    """Return what the call cost the operator in vain, attempts still under way included."""
    for attempt in call.open_attempts:
        note_operator_cost(call, attempt)
    if (
        not (call.operator_input_tokens or call.operator_output_tokens)
        or call.rights.tariff is None
    ):
        return 0
    usage = Usage(
        input_tokens=call.operator_input_tokens, output_tokens=call.operator_output_tokens
    )
    price = msgspec.structs.replace(call.rights.tariff.price, model_multiplier_ppm=PPM)
    return charge(usage, price, group_multiplier_ppm=PPM).cost_nanos
