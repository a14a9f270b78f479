"""What an upstream's refusal means: whose fault it is, whether another channel may do better.

An upstream's error text quotes prompts and masked keys, so none of it goes on: of the body only a
code word survives, and only if it is a plain token.
"""

from typing import Final

import msgspec

from relay.errors import (
    ChannelDenied,
    ChannelLacksModel,
    ChannelLimited,
    ChannelRefused,
    ChannelTimeout,
    RelayError,
    UpstreamRejected,
)
from relay.wire.verdict import safe_code

RETRY_AFTER_S_MAX: Final = 3600.0


class _Fault(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


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
    if status in (401, 402, 403):
        return ChannelDenied("The upstream refused the relay's credential.")
    if status == 429:
        return ChannelLimited(
            "The upstream's own rate limit is reached.", retry_after_s=retry_after(headers)
        )
    if status in (408, 504, 524):
        return ChannelTimeout("The upstream timed out.")
    if status == 404:
        # Path and model name are ours, so it is not the client who got them wrong.
        return ChannelLacksModel("The upstream does not have this model.")
    if status >= 500 or status < 400:
        # A redirect is as wrong as a 5xx: following it would carry the credential elsewhere.
        return ChannelRefused(
            f"The upstream answered {status}.", retry_after_s=retry_after(headers)
        )
    return reject(status, *_read_fault(body))


def reject(status: int, code: str | None, param: str | None = None) -> UpstreamRejected:
    """Return the error that tells a client its request was refused by the model's provider.

    Args:
        status: 4xx.
        code: The provider's code word, a plain token; None = it gave none.
        param: The field it named, a plain token.
    """
    said = f": {code}" if code else ""
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


def _read_fault(body: bytes) -> tuple[str | None, str | None]:
    """Return code and param of an error body, where they are plain tokens."""
    try:
        fault = _decoder.decode(body).error
    except (msgspec.DecodeError, RecursionError):
        return None, None
    return safe_code(fault.code) or safe_code(fault.type), safe_code(fault.param)


def _seconds(value: bytes, divisor: float) -> float | None:
    try:
        seconds = float(value) / divisor
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_S_MAX) if 0 <= seconds < float("inf") else None
