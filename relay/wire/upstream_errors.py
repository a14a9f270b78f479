"""What an upstream's refusal means: whose fault it is, whether another channel may do better.

An upstream's error text quotes prompts and masked keys, so none of it goes on: of the body only a
code word survives, and only if it is a plain token, and a few sentences that hold nothing but
numbers: coding agents read in them how much too long a prompt is.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from relay.errors import (
    ChannelDenied,
    ChannelLacksModel,
    ChannelLimited,
    ChannelOverloaded,
    ChannelRefused,
    ChannelTimeout,
    RelayError,
    UpstreamRejected,
)
from relay.records import Endpoint
from relay.wire.answer_shapes import ErrorFields, FaultBody
from relay.wire.classify import safe_code
from relay.wire.quota_headers import rest_of_quota, retry_after

OUT_OF_CREDIT: Final = "credit balance is too low"
"""Anthropic says 400 for it, as if the request were wrong. Source: its help centre, "My credit
balance is too low", and the error as agents report it."""
_PLAIN: Final = re.compile(
    r"prompt is too long(?:: \d{1,12} tokens > \d{1,12} maximum)?"
    r"|input length and `max_tokens` exceed context limit: \d{1,12} \+ \d{1,12} > \d{1,12}"
    r"|max_tokens: \d{1,12} > \d{1,12}"
)
"""What may be quoted of a provider's message. Claude Code shortens its context on these words."""


_SHAPELESS: Final = frozenset({Endpoint.SPEECH, Endpoint.TRANSCRIPTIONS})
"""Their answers may be sound or text, in JSON's name too; all others are JSON objects."""
_JSON_SPACE: Final = b" \t\r\n"
_decoder = msgspec.json.Decoder(FaultBody)


def read_refusal(
    status: int,
    headers: Mapping[bytes, bytes],
    body: bytes,
    *,
    now_s: float,
    model_gone_switches: bool = True,
) -> RelayError:
    """Return the error that an upstream's answer other than 2xx amounts to.

    Args:
        status: Its HTTP status; 1xx and 2xx never come here.
        headers: Its headers, names in lower case.
        body: Its body, or the first part of it.
        now_s: Seconds since 1970 UTC.
        model_gone_switches: 404 is the channel's fault (it lacks the model), not the client's.
    """
    wait_s = retry_after(headers, now_s=now_s)
    match status:
        case 401 | 402 | 403:
            error: RelayError = ChannelDenied("The upstream refused the relay's credential.")
        case 429:
            if wait_s is None:
                wait_s = rest_of_quota(headers, now_s=now_s)
            error = ChannelLimited(
                "The upstream's own rate limit is reached.", retry_after_s=wait_s
            )
        case 408 | 504 | 524:
            error = ChannelTimeout("The upstream timed out.")
        case 404 if model_gone_switches:
            # Path and model name are ours, so it is not the client who got them wrong.
            error = ChannelLacksModel("The upstream does not have this model.")
        case 529:
            error = ChannelOverloaded("The model's provider is overloaded.", retry_after_s=wait_s)
        case _ if 400 <= status < 500:
            error = _read_rejection(status, body)
        case _:
            # A redirect is as wrong as a 5xx: following it would carry the credential elsewhere.
            error = ChannelRefused(f"The upstream answered {status}.", retry_after_s=wait_s)
    return error


def _read_rejection(status: int, body: bytes) -> RelayError:
    """Return what a 4xx about the request amounts to."""
    fault = _read_fault(body)
    message = fault.message if isinstance(fault.message, str) else ""
    if OUT_OF_CREDIT in message:
        return ChannelDenied("The upstream's account is out of credit.")
    code = safe_code(fault.code) or safe_code(fault.type)
    return reject(status, code, safe_code(fault.param), _quotable(message))


def reject(
    status: int, code: str | None, param: str | None = None, quote: str = ""
) -> UpstreamRejected:
    """Return the error that tells a client its request was refused by the model's provider.

    Args:
        status: 4xx.
        code: The provider's code word, a plain token; None = it gave none.
        param: The field it named, a plain token.
        quote: What may be quoted of its message.
    """
    said = f": {code}" if code else ""
    if quote:
        said += f": {quote}"
    error = UpstreamRejected(
        f"The model's provider refused this request as invalid ({status}{said}).", param=param
    )
    error.status = status
    error.code = code
    return error


def is_error_body(body: bytes) -> bool:
    """Tell whether a 200's JSON body is an error all the same."""
    if body.find(b'"error"', 0, 512) < 0:
        return False
    try:
        _decoder.decode(body)
    except msgspec.DecodeError:
        return False
    return True


def find_wrong(body: bytes, endpoint: Endpoint) -> str | None:
    """Tell what is wrong with a 200's whole plain body; None where it can be an answer."""
    if is_error_body(body):
        return "The upstream answered 200 with an error."
    if body[:1] != b"{" or body[-1:] != b"}":
        text = body.strip(_JSON_SPACE)
        if (text[:1] != b"{" or text[-1:] != b"}") and endpoint not in _SHAPELESS:
            return "The upstream answered 200 with something else than JSON."
    return None


def find_wrong_start(part: bytes, endpoint: Endpoint) -> str | None:
    """Tell the same of the first part of a body that is too large to be held."""
    if part.lstrip(_JSON_SPACE)[:1] != b"{" and endpoint not in _SHAPELESS:
        return "The upstream answered 200 with something else than JSON."
    return None


def _read_fault(body: bytes) -> ErrorFields:
    try:
        return _decoder.decode(body).error
    except (msgspec.DecodeError, RecursionError):
        return ErrorFields()


def _quotable(message: str) -> str:
    found = _PLAIN.search(message)
    return found.group() if found is not None else ""
