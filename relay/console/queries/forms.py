"""Cursors, moments, and the filters of a query string, as values. Pure.

A cursor is opaque to who uses it, and holds nothing that the page before it did not show: the
filter and the account come with each request, never out of it.
"""

import base64
import datetime
import re
from typing import Annotated, Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from relay.errors import BadRequest
from relay.store.log.reports import format_moment, parse_request_id
from relay.units import parse_usd
from relay.wire.client_ip import network_of

ROWS_MAX: Final = 1_000
SPANS: Final = {"m": 60, "h": 3_600, "d": 86_400}
DAYS_MAX: Final = 400
_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_US: Final = datetime.timedelta(microseconds=1)
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

__all__ = ["format_moment"]

Text = Annotated[str, Meta(max_length=256)]
Limit = Annotated[int, Meta(ge=1, le=ROWS_MAX)]
_Cursor = TypeVar("_Cursor", bound=msgspec.Struct)


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls. `since`, `until`: a moment with its offset, or a span back from now (24h)."""

    since: Text = ""
    until: Text = ""
    key: Text = ""
    """An id, a name, or the last four characters."""
    model: Text = ""
    line: Text = ""
    status: Annotated[str, Meta(pattern="^([1-5](xx|[0-9]{2}))?$")] = ""
    code: Text = ""
    """The error code of the answer."""
    ip: Text = ""
    """An address or a CIDR."""
    id: Text = ""
    min_ms: Annotated[float, Meta(ge=0, le=1e9)] = 0
    """The whole call took at least so long."""
    min_usd: Text = ""
    """It cost at least so much."""


class LogPageQuery(LogQuery, frozen=True, kw_only=True):
    """Which page of them."""

    cursor: Text = ""
    limit: Limit = 100


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of rows, newest first."""

    cursor: Text = ""
    limit: Limit = 100


class LogCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last call of a page: when it ended, in microseconds since 1970, and its id."""

    ended_us: Annotated[int, Meta(ge=0, le=2**53)]
    request_id: UUID


class IdCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page, by its number."""

    id: Annotated[int, Meta(ge=0, le=2**62)]


class MomentCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page, by its moment in microseconds since 1970 and its name."""

    at_us: Annotated[int, Meta(ge=0, le=2**53)]
    name: str


def encode_cursor(cursor: msgspec.Struct) -> str:
    """Return a cursor as text that goes into a URL as it is."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode_cursor(text: str, kind: type[_Cursor]) -> _Cursor | None:
    """Return the cursor again, None for "".

    Raises:
        BadRequest: CLIENT; it is none.
    """
    if not text:
        return None
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.json.decode(plain, type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise BadRequest("cursor: not one of ours", param="cursor") from None


def to_us(moment: datetime.datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - _EPOCH) // _US


def from_us(time_us: int) -> datetime.datetime:
    """Return the moment of microseconds since 1970."""
    return _EPOCH + time_us * _US


def parse_moment(
    text: str, now: datetime.datetime, name: str, default: datetime.datetime
) -> datetime.datetime:
    """Return the moment that "24h" before now, or an ISO 8601 time, stands for; "": the default.

    Raises:
        BadRequest: CLIENT; it is neither, or has no offset.
    """
    if not text:
        return default
    span = _SPAN.fullmatch(text)
    if span:
        seconds = min(int(span[1]) * SPANS[span[2]], DAYS_MAX * 86_400)
        return now - datetime.timedelta(seconds=seconds)
    try:
        # A plus sign that was not escaped arrives as a space.
        moment = datetime.datetime.fromisoformat(text.replace(" ", "+", 1) if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{name}: expected a span such as 24h, or an ISO 8601 time", param=name
        ) from None


def parse_end(text: str, now: datetime.datetime) -> datetime.datetime | None:
    """Return the moment that "30d" after now, or an ISO 8601 day or time, stands for; None: "".

    Raises:
        BadRequest: CLIENT; it is neither, or past.
    """
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span:
        return now + datetime.timedelta(seconds=int(span[1]) * SPANS[span[2]])
    moment = parse_moment(text, now, "expires", now)
    if moment <= now:
        raise BadRequest("expires: that is past", param="expires")
    return moment


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls, as Postgres is asked; None = not filtered by it. `until` is not included."""

    account_id: int | None
    since: datetime.datetime
    until: datetime.datetime
    key: str | None = None
    model: str | None = None
    line: str | None = None
    status: tuple[int, int] | None = None
    code: str | None = None
    ip: str | None = None
    request_id: UUID | None = None
    min_us: int = 0
    min_nanos: int = 0

    @property
    def is_summed(self) -> bool:
        """Whether the sums by minute and hour know all that this filter looks at."""
        return not (self.ip or self.request_id or self.min_us or self.min_nanos)

    @property
    def is_failure(self) -> bool:
        """Whether only calls fit that were not answered with 200."""
        return self.code is not None or (self.status is not None and self.status[0] > 200)

    @property
    def is_sparse(self) -> bool:
        """Whether few of many calls may fit: worth to ask first in which hours they are."""
        return bool(
            self.key or self.model or self.line or self.code or self.min_us or self.min_nanos
        ) or (self.status is not None and self.status[1] >= 300)


def to_filter(
    query: LogQuery, account_id: int | None, now: datetime.datetime, *, days: float = 1.0
) -> CallFilter:
    """Return a query string's filter; without `since`, of so many days back.

    Raises:
        BadRequest: CLIENT; a value that cannot be one.
    """
    until = parse_moment(query.until, now, "until", now + datetime.timedelta(minutes=1))
    # There are no calls beyond; and the first and the last moments there are cannot be moved.
    until = min(max(until, _EPOCH), now + datetime.timedelta(days=1))
    back = datetime.timedelta(days=days)
    since = parse_moment(query.since, now, "since", min(until, now) - back)
    status = None
    if query.status:
        first = int(query.status.replace("xx", "00"))
        status = (first, first + 99 if query.status.endswith("xx") else first)
    return CallFilter(
        account_id=account_id,
        since=max(since, now - datetime.timedelta(days=DAYS_MAX)),
        until=until,
        key=query.key or None,
        model=query.model or None,
        line=query.line or None,
        status=status,
        code=query.code or None,
        ip=_parse_network(query.ip),
        request_id=parse_request_id(query.id.strip()) if query.id else None,
        min_us=round(query.min_ms * 1000),
        min_nanos=_parse_nanos(query.min_usd),
    )


def _parse_network(text: str) -> str | None:
    if not text:
        return None
    try:
        return str(network_of(text.strip(), strict=False))
    except ValueError:
        problem = "ip: expected an address or a CIDR such as 203.0.113.0/24"
        raise BadRequest(problem, param="ip") from None


def _parse_nanos(text: str) -> int:
    if not text:
        return 0
    try:
        return max(0, parse_usd(text))
    except ValueError:
        raise BadRequest("min_usd: expected a decimal such as 0.01", param="min_usd") from None
