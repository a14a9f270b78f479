"""What a caller of the admin API asks for in a query string, as typed filters. Pure."""

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from relay.errors import BadRequest
from relay.store.log.reports import CallFilter, ReportScope

LOGS_MAX: Final = 1000
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

_SINCE: Final = {"minute": 1 / 24, "hour": 1.0, "day": 30.0}
"""Days looked back without `since`: a look at a log of millions must not read all of it."""

_Query = TypeVar("_Query", bound=msgspec.Struct)

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Moment = Annotated[datetime.datetime, Meta(tz=True)]


class ScopeQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose calls, and from when to when (ISO 8601 with an offset)."""

    account: Text | None = None
    key: Text | None = None
    line: Text | None = None
    model: Text | None = None
    since: Moment | None = None
    until: Moment | None = None


class LogQuery(ScopeQuery, frozen=True, kw_only=True):
    """Which calls; `status` is "429" or "5xx"."""

    channel: Text | None = None
    status: Annotated[str, Meta(pattern="^[1-5](xx|[0-9]{2})$")] | None = None
    reason: Text | None = None
    ip: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=LOGS_MAX)] = 100


class UsageQuery(ScopeQuery, frozen=True, kw_only=True):
    """Sums by which unit of time."""

    by: Literal["minute", "hour", "day"] = "hour"


def parse_log_query(query: Mapping[str, str], now: datetime.datetime) -> tuple[CallFilter, int]:
    """Return the filter and the number of rows asked for; without `since`, of the last day.

    Raises:
        BadRequest: CLIENT; an unknown or ill-typed parameter.
    """
    asked = _convert(query, LogQuery)
    status = None
    if asked.status is not None:
        first = int(asked.status.replace("xx", "00"))
        status = (first, first + 99 if asked.status.endswith("xx") else first)
    wanted = CallFilter(
        **_scope(asked, now, days=1.0),
        channel=asked.channel,
        status=status,
        reason=asked.reason,
        ip=asked.ip,
    )
    return wanted, asked.limit


def parse_usage_query(query: Mapping[str, str], now: datetime.datetime) -> tuple[ReportScope, str]:
    """Return whose usage is asked for, and by which unit of time.

    Raises:
        BadRequest: CLIENT; an unknown or ill-typed parameter.
    """
    asked = _convert(query, UsageQuery)
    return ReportScope(**_scope(asked, now, days=_SINCE[asked.by])), asked.by


def _convert(query: Mapping[str, str], kind: type[_Query]) -> _Query:
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def _scope(asked: ScopeQuery, now: datetime.datetime, *, days: float) -> dict[str, Any]:
    until = max(asked.until or now, _EPOCH)  # the first moments there are have none before them
    since = asked.since or until - datetime.timedelta(days=days)
    names = {name: getattr(asked, name) for name in ("account", "key", "line", "model")}
    return {**names, "since": since, "until": asked.until}
