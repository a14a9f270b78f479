"""Every failure the relay speaks of, in one tree, sorted by whose fault it is.

Each class knows the HTTP status it answers with, the OpenAI `type` and `code` of its body, and
whether another channel may be tried. Foreign exceptions are mapped to these at the border
(`upstream`, `store`, `edge`) and never pass it. Messages hold no request content and no secret.
"""

import enum


class Fault(enum.Enum):
    """Whose fault a failure is: it decides the blame, the bill and whether to switch."""

    CLIENT = "client"
    CHANNEL = "channel"
    NETWORK = "network"
    RELAY = "relay"


class RelayError(Exception):
    """A failure with an answer.

    Args:
        message: For the client's eyes: says what to do, quotes none of the request.
        param: The field at fault, where there is one.
        retry_after_s: Seconds after which the same call may succeed; None where waiting
            does not help or nobody knows.
    """

    fault: Fault = Fault.RELAY
    status: int = 500
    kind: str = "server_error"
    code: str | None = None
    switch: bool = False
    """True where another channel may be tried with the same call."""
    should_retry: bool | None = None
    """What x-should-retry says; None leaves it to the client's own rule."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.own_body = b""
        """An upstream's own body, where that is what a client is to read; b"" = ours."""


def forget_frames(error: BaseException) -> None:
    """Let go of the frames that an error came through; called where it has been told.

    A frame that raised it, or passed it on, names it: error, traceback and frame are a ring that
    keeps the call in those frames, and a question of megabytes with it, until the garbage collector
    happens to run.
    """
    following: BaseException | None = error
    while following is not None and following.__traceback__ is not None:
        following.__traceback__ = None
        following = following.__context__


# --- the client's fault: another channel would say the same ---------------------------------


class ClientError(RelayError):
    """The call itself is wrong; it costs no channel anything."""

    fault = Fault.CLIENT
    status = 400
    kind = "invalid_request_error"
    should_retry: bool | None = False


class BadRequest(ClientError):
    """400: not JSON, a missing or ill-typed field, an impossible value."""


class Unauthenticated(ClientError):
    """401: no key, an unknown, disabled or expired one."""

    status = 401
    code = "invalid_api_key"


class KeyRevoked(Unauthenticated):
    """401: the key was disabled or deleted while the call ran."""


class Forbidden(ClientError):
    """403: the key is good, but may not do this (model, address)."""

    status = 403
    kind = "permission_error"
    code = "permission_denied"


class NotFound(ClientError):
    """404: no such path."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """404: no line of this account serves the model."""

    code = "model_not_found"


class MethodNotAllowed(ClientError):
    """405: the path exists under another method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(ClientError):
    """408: the request did not arrive in time."""

    status = 408
    code = "request_timeout"
    should_retry = None


class Conflict(ClientError):
    """409: it contradicts what is already there (a known order number, another amount)."""

    status = 409
    code = "conflict"


class TooLarge(ClientError):
    """413: the body is over the limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(ClientError):
    """415: a content type or encoding that this endpoint does not take."""

    status = 415
    code = "unsupported_media_type"


class TargetTooLong(ClientError):
    """414: the request target is over the limit."""

    status = 414
    code = "uri_too_long"


class HeadTooLarge(ClientError):
    """431: a header field, or the head of the request, is over the limit."""

    status = 431
    code = "request_header_fields_too_large"


class UpgradeRequired(ClientError):
    """426: what was asked for over another protocol is served over HTTP/1.1."""

    status = 426
    code = "upgrade_required"


class NotImplementedHere(ClientError):
    """501: a transfer coding that this relay does not speak."""

    status = 501
    code = "not_implemented"


class RateLimited(ClientError):
    """429: a bucket is empty; waiting helps."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"
    should_retry: bool | None = None


class BudgetSpent(RateLimited):
    """429: the budget of a key or account is spent; only its next day, week or month helps."""

    code = "budget_exceeded"
    should_retry = False


class AddressRefused(ClientError):
    """403: this address is refused; `code` is what support looks up (`relay block explain`)."""

    status = 403
    kind = "permission_error"
    should_retry = False

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AddressLimited(RateLimited):
    """429: this address asks too much; `code` as in AddressRefused."""

    def __init__(self, message: str, code: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.code = code


class QuotaExhausted(ClientError):
    """429: the key's quota is spent; waiting does not help."""

    status = 429
    kind = "insufficient_quota"
    code = "insufficient_quota"


class CreditExhausted(QuotaExhausted):
    """429: the account's balance does not cover the call; a recharge helps, waiting does not."""

    code = "credit_balance_exhausted"


class ClientGone(ClientError):
    """499: the client hung up; nobody reads an answer."""

    status = 499
    code = "client_gone"


class UpstreamRejected(ClientError):
    """The upstream called the request itself wrong; wire.refusals.blame says which refusals do.

    `message` has the provider's own words, and `own_body` its whole body, both without what names
    the account that asked: they may quote the request, so they go to who wrote it and nowhere else.
    """


# --- the channel's fault: another channel may do better --------------------------------------


class ChannelError(RelayError):
    """This channel failed the call; the next one may serve it."""

    fault = Fault.CHANNEL
    status = 502
    kind = "upstream_error"
    code = "upstream_error"
    switch = True


class ChannelRefused(ChannelError):
    """Answered 5xx, or a head that is no answer to what was asked."""


class ChannelOverloaded(ChannelRefused):
    """Answered 529: the provider itself has no room now (529 in Anthropic's dialect, else 503)."""

    status = 503
    code = "upstream_overloaded"


class ChannelLacksModel(ChannelError):
    """This channel does not have the model, or the endpoint, though the catalog says so."""

    code = "upstream_model_missing"


class ChannelForbade(ChannelError):
    """Answered 403 or the like without saying that its credential is at fault.

    A firewall's page, a right to one model, what another account keeps: one other channel is asked.
    """

    status = 403
    kind = "permission_error"
    code = "upstream_forbidden"


class ChannelReportedError(ChannelError):
    """Sent an error inside a 200. `upstream_code`: its code word, a plain token."""

    def __init__(self, message: str, *, upstream_code: str) -> None:
        super().__init__(message)
        self.upstream_code = upstream_code


class ChannelDrained(ChannelError):
    """An operator wants the channel empty now; no fault of the channel's."""

    status = 503
    code = "channel_drained"


class ChannelOutrun(ChannelError):
    """Another channel, asked beside this one, was faster (hedging); no fault of the channel's."""


class ChannelDenied(ChannelError):
    """Its credential or its balance is at fault, as its own words say: not the client's."""

    code = "upstream_credential"


class ChannelLimited(ChannelError):
    """Answered 429: the upstream's own quota is spent."""

    status = 429
    kind = "rate_limit_error"
    code = "upstream_rate_limited"


class ChannelSpent(ChannelLimited):
    """Was not asked: the quota that it is declared with is spent; no fault of the channel's."""

    exhausted = "tokens"
    """What of it: tokens, requests or concurrency."""


class ChannelGarbled(ChannelError):
    """Sent bytes that are not HTTP, not SSE, too long, or encoded though nobody asked."""

    code = "upstream_protocol_error"


class ChannelTruncated(ChannelError):
    """Ended before its protocol's terminal event."""

    code = "upstream_truncated"


class ChannelTimeout(ChannelError):
    """Stayed silent past its deadline."""

    status = 504
    code = "upstream_timeout"


# --- the network's fault ----------------------------------------------------------------------


class NetworkError(RelayError):
    """No connection could be made, or it broke under us."""

    fault = Fault.NETWORK
    status = 502
    kind = "upstream_error"
    code = "upstream_unreachable"
    switch = True


class ConnectFailed(NetworkError):
    """Refused, unreachable, unresolvable, TLS not verified, or too slow to connect."""


class CertificateInvalid(ConnectFailed):
    """Its TLS certificate is no good; the message says why.

    Args:
        message: See RelayError.
        flaw: What is wrong with it, in a word.
    """

    code = "upstream_certificate"

    def __init__(self, message: str, flaw: str) -> None:
        super().__init__(message)
        self.flaw = flaw


class ConnectionBroken(NetworkError):
    """Reset or closed while an answer was due."""


# --- our own fault ----------------------------------------------------------------------------


class Unavailable(RelayError):
    """503: overloaded, draining, or without a journal to write to."""

    status = 503
    kind = "server_error"
    code = "service_unavailable"


class ShuttingDown(Unavailable):
    """503: the relay stops; another instance, or this one in a moment, can serve the call."""


class DeadlineSpent(RelayError):
    """504: the call's whole time is spent."""

    status = 504
    kind = "server_error"
    code = "deadline_exceeded"
    should_retry = False


class OwnFault(RelayError):
    """500: a bug of ours fell on the call; nobody else is asked, and no channel is blamed.

    Its cause is what was raised, until that is logged.
    """

    code = "internal_error"


class DependencyDown(RelayError):
    """Postgres or Redis cannot be reached (exit code 69 on the command line)."""

    status = 503
    code = "dependency_down"


class ConfigError(RelayError):
    """A setting or a catalog entry is wrong; the message names its path (exit code 78)."""

    code = "bad_configuration"
