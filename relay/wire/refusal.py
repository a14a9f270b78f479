"""What an upstream's refusal means: whose fault it is, whether another channel may do better.

An upstream's error text quotes prompts and masked keys, so none of it goes on: of the body only a
code word survives, and only if it is a plain token, and a few sentences that hold nothing but
numbers: coding agents read in them how much too long a prompt is.
"""

import re
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
from relay.wire.verdict import safe_code

RETRY_AFTER_S_MAX: Final = 3600.0
OUT_OF_CREDIT: Final = "credit balance is too low"
"""Anthropic says 400 for it, as if the request were wrong. Source: its help centre, "My credit
balance is too low", and the error as agents report it."""
_PLAIN: Final = re.compile(
    r"prompt is too long(?:: \d{1,12} tokens > \d{1,12} maximum)?"
    r"|input length and `max_tokens` exceed context limit: \d{1,12} \+ \d{1,12} > \d{1,12}"
    r"|max_tokens: \d{1,12} > \d{1,12}"
)
"""What may be quoted of a provider's message. Claude Code shortens its context on these words."""


class _Fault(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    param: str | None = None
    message: object = None


class _Body(msgspec.Struct):
    error: _Fault


_decoder = msgspec.json.Decoder(_Body)


def read_refusal(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> RelayError:
    """Return the error that an upstream's answer other than 2xx amounts to.

    Args:
        status: Its HTTP status; 1xx and 2xx never come here.
        headers: Its headers, names in lower case.
        body: Its body, or the first part of it.
    """
    wait_s = retry_after(headers)
    match status:
        case 401 | 402 | 403:
            error: RelayError = ChannelDenied("The upstream refused the relay's credential.")
        case 429:
            error = ChannelLimited(
                "The upstream's own rate limit is reached.", retry_after_s=wait_s
            )
        case 408 | 504 | 524:
            error = ChannelTimeout("The upstream timed out.")
        case 404:
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


def retry_after(headers: list[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` ask for; None without a number."""
    found: float | None = None
    for name, value in headers:
        if name == b"retry-after-ms":
            return _seconds(value, 1000.0) or found
        if name == b"retry-after":
            found = _seconds(value, 1.0)
    return found


def is_error_body(body: bytes) -> bool:
    """Tell whether a 200's JSON body is an error all the same."""
    if body.find(b'"error"', 0, 512) < 0:
        return False
    try:
        _decoder.decode(body)
    except msgspec.DecodeError:
        return False
    return True


def _read_fault(body: bytes) -> _Fault:
    try:
        return _decoder.decode(body).error
    except (msgspec.DecodeError, RecursionError):
        return _Fault()


def _quotable(message: str) -> str:
    found = _PLAIN.search(message)
    return found.group() if found is not None else ""


def _seconds(value: bytes, divisor: float) -> float | None:
    try:
        seconds = float(value) / divisor
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_S_MAX) if 0 <= seconds < float("inf") else None
