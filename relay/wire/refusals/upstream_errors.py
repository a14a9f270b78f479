"""What an upstream's refusal means, as an error that can be answered and held against somebody.

Whose fault it is, wire.refusals.blame says. Where it is the request's, the client gets the
provider's own words: coding agents read in them how much too long a prompt is, and which field is
wrong. What names the account that asked is taken out, and nothing of them is kept or logged: they
may quote the request.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from relay.decoding import Decoder, Undecodable
from relay.errors import (
    ChannelDenied,
    ChannelForbade,
    ChannelLacksModel,
    ChannelLimited,
    ChannelOverloaded,
    ChannelRefused,
    ChannelReportedError,
    ChannelTimeout,
    RelayError,
    UpstreamRejected,
)
from relay.model import DEFAULT_DIALECT, Dialect
from relay.records import SOUND_ENDPOINTS, Endpoint
from relay.wire.answer_shapes import FaultBody
from relay.wire.classify import UNKNOWN_ERROR
from relay.wire.dialects.known import TABLES
from relay.wire.refusals.blame import CLIENT_FAULT_CODES, Blame, judge
from relay.wire.refusals.fault_body import FaultWords, read_fault
from relay.wire.refusals.identity import without_identity
from relay.wire.refusals.quota_headers import rest_of_quota, retry_after

MESSAGE_CHARS_MAX: Final = 4096

_SHAPELESS: Final = SOUND_ENDPOINTS | {
    *(Endpoint.SPEECH, Endpoint.STREAM_GENERATE, Endpoint.FILE, Endpoint.VIDEO),
}
"""Their answers may be sound, film, text or a list, in JSON's name too; others are JSON objects."""
_JSON_SPACE: Final = b" \t\r\n"
_decoder = Decoder(FaultBody)


def read_refusal(  # noqa: PLR0913 - what a refusal is made of
    status: int,
    headers: Mapping[bytes, bytes],
    body: bytes,
    *,
    now_s: float,
    model_gone_switches: bool = True,
    dialect: Dialect = DEFAULT_DIALECT,
    ours: Sequence[str] = (),
) -> RelayError:
    """Return the error that an upstream's answer other than 2xx amounts to.

    Args:
        status: Its HTTP status; 1xx and 2xx never come here.
        headers: Its headers, names in lower case.
        body: Its body, or the first part of it.
        now_s: Seconds since 1970 UTC.
        model_gone_switches: A model that is missing is the channel's fault, not the client's.
        dialect: The channel's.
        ours: What the channel is known by, and no client is told.
    """
    words = read_fault(body)
    blame = judge(status, words, TABLES[dialect].blames)
    match blame:
        case Blame.ELSEWHERE | Blame.OWNER:
            return _forbid(blame, status, words, body, ours)
        case Blame.REQUEST | Blame.CONTENT:
            return _reject(status, words, body, ours)
        case Blame.MODEL if not model_gone_switches:
            return _reject(status if status < 500 else 404, words, body, ours)
    wait_s = retry_after(headers, now_s=now_s)
    if blame is Blame.LIMITED and wait_s is None:
        wait_s = rest_of_quota(headers, now_s=now_s)
        if wait_s is None:
            wait_s = words.retry_after_s
    return _blame_channel(blame, status, wait_s)


def _blame_channel(blame: Blame, status: int, wait_s: float | None) -> RelayError:
    error: RelayError
    match blame:
        case Blame.CREDENTIAL:
            error = ChannelDenied("The upstream refused the relay's credential.")
        case Blame.MODEL:
            # Path and model name are ours, so it is not the client who got them wrong.
            error = ChannelLacksModel("The upstream does not have this model.")
        case Blame.LIMITED:
            error = ChannelLimited(
                "The upstream's own rate limit is reached.", retry_after_s=wait_s
            )
        case Blame.TIMEOUT:
            error = ChannelTimeout("The upstream timed out.")
        case Blame.OVERLOADED:
            error = ChannelOverloaded("The model's provider is overloaded.", retry_after_s=wait_s)
        case _:
            # A redirect is as wrong as a 5xx: following it would carry the credential elsewhere.
            error = ChannelRefused(f"The upstream answered {status}.", retry_after_s=wait_s)
    return error


def read_reported_error(said: bytes, code: str | None, ours: Sequence[str] = ()) -> RelayError:
    """Return what an error inside a 200 amounts to: some, another channel would only repeat.

    Args:
        said: The JSON that tells it, an event's payload or a whole body; b"" where there is none.
        code: Its code, where one was found before.
        ours: What the channel is known by, and no client is told.
    """
    words = read_fault(said)
    code = words.code or code
    if code in CLIENT_FAULT_CODES:
        return _reject(400, words, b"", ours, code=code)
    return ChannelReportedError(
        "The upstream reported an error inside its answer.", upstream_code=code or UNKNOWN_ERROR
    )


def reject(status: int, code: str | None) -> UpstreamRejected:
    """Return the error that tells a client its request was refused by the model's provider.

    Args:
        status: 4xx.
        code: The provider's code word, a plain token; None = it gave none.
    """
    return _reject(status, FaultWords(code=code), b"", ())


def _reject(
    status: int, words: FaultWords, body: bytes, ours: Sequence[str], *, code: str | None = None
) -> UpstreamRejected:
    code = words.code or code
    said = f": {code}" if code else ""
    message = _told(words, ours) or (
        f"The model's provider refused this request as invalid ({status}{said})."
    )
    error = UpstreamRejected(message, param=words.param)
    error.status = status
    error.code = code
    error.own_body = _told_body(words, body, ours)
    if status == 409:
        error.should_retry = None  # what held it up may be over: the clients' own rule
    return error


def _forbid(
    blame: Blame, status: int, words: FaultWords, body: bytes, ours: Sequence[str]
) -> ChannelForbade:
    if blame is Blame.OWNER:
        error = ChannelForbade(_told(words, ours), param=words.param)
        error.status, error.code = status, words.code or "not_found"
        error.kind = "invalid_request_error"
        error.own_body = _told_body(words, body, ours)
        return error
    error = ChannelForbade("The model's provider does not allow this request.")
    if status in (413, 429):
        error = ChannelForbade("The request is too large for the rate limits of its provider.")
        error.status, error.code = 413, "request_too_large"
        error.kind = "invalid_request_error"
    elif status == 402:
        error.status, error.code, error.kind = 502, "upstream_balance", "upstream_error"
    return error


def _told(words: FaultWords, ours: Sequence[str]) -> str:
    """Return what a client is told of a provider's message."""
    message = words.message[:MESSAGE_CHARS_MAX].encode("utf-8", "replace")
    return without_identity(message, ours).decode("utf-8", "replace")


def _told_body(words: FaultWords, body: bytes, ours: Sequence[str]) -> bytes:
    """Return a provider's whole body as a client may read it, b"" where it is none for clients."""
    return without_identity(body, ours) if words.whole and not words.empty else b""


def is_error_body(body: bytes) -> bool:
    """Tell whether a 200's JSON body is an error all the same."""
    # From the right a search costs a third of one from the left.
    if body.rfind(b'"error"', 0, 512) < 0:
        return False
    try:
        _decoder.decode(body)
    except Undecodable:
        return False
    return True


def find_wrong(body: bytes, endpoint: Endpoint) -> str | None:
    """Tell what is wrong with a 200's whole plain body that is no error; None: it can be one."""
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
