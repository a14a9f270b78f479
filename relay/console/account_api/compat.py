"""The calls that tools of other relays know: balance and usage as OpenAI's dashboard told them.

    GET /v1/dashboard/billing/subscription     hard_limit_usd: what was ever there
    GET /v1/dashboard/billing/usage            total_usage: cents spent since start_date
    GET /api/usage/token                       new-api: quota in units of 1/500,000 USD

Source: one-api and new-api, controller/billing.go (GetSubscription, GetUsage) and
controller/token.go (GetTokenUsage).
"""

import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.console.queries import money, usage
from relay.console.queries.forms import CallFilter
from relay.console.queries.usage import sum_up
from relay.console.routes import Ask, Route
from relay.console.signin.actor import Permit
from relay.errors import BadRequest
from relay.units import parse_usd

NANOS_PER_QUOTA: Final = 2_000
USAGE_DAYS: Final = 100

__all__ = ["ROUTES", "usage"]


class DatesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Days, as YYYY-MM-DD."""

    start_date: str = ""
    end_date: str = ""


async def _subscription(ask: Ask) -> dict[str, Any]:
    async with ask.services.connect() as connection:
        balance = await money.show_balance(connection, ask.actor.own, ask.actor.account)
        spent = await _spent_nanos(connection, ask)
    limit = float(Decimal(balance.free_usd) + Decimal(spent) / 10**9)
    return {
        "object": "billing_subscription",
        "has_payment_method": True,
        "soft_limit_usd": limit,
        "hard_limit_usd": limit,
        "system_hard_limit_usd": limit,
        "access_until": 0,
    }


async def _usage(ask: Ask) -> dict[str, Any]:
    query: DatesQuery = ask.query
    now = ask.services.now()
    start, end = days_of(query, now)
    async with ask.services.connect() as connection:
        wanted = CallFilter(account_id=ask.actor.own, since=start, until=end)
        totals = await sum_up(connection, wanted)
    cents = Decimal(totals.whole.cost_usd) * 100
    return {"object": "list", "total_usage": float(cents)}


async def _token(ask: Ask) -> dict[str, Any]:
    async with ask.services.connect() as connection:
        balance = await money.show_balance(connection, ask.actor.own, ask.actor.account)
        spent = await _spent_nanos(connection, ask)
    free = max(0, parse_usd(balance.free_usd))
    told = {
        "object": "token_usage",
        "name": ask.actor.account,
        "total_granted": (free + spent) // NANOS_PER_QUOTA,
        "total_used": spent // NANOS_PER_QUOTA,
        "total_available": free // NANOS_PER_QUOTA,
        "unlimited_quota": False,
        "model_limits": {},
        "model_limits_enabled": False,
        "expires_at": 0,
    }
    return {"code": True, "message": "ok", "data": told}


async def _spent_nanos(connection: Any, ask: Ask) -> int:
    nanos: int = await connection.fetchval(
        """SELECT -coalesce(sum(amount_nanos), 0)::bigint FROM ledger_months
        WHERE account_id = $1 AND kind = 'usage'""",
        ask.actor.own,
    )
    return nanos


def days_of(
    query: DatesQuery, now: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    """Return where the days of a query begin and end.

    Raises:
        BadRequest: CLIENT; one is none.
    """
    start = _day(query.start_date, now - datetime.timedelta(days=USAGE_DAYS))
    # There are no calls beyond today, and the last day there is has none behind it.
    return start, min(_day(query.end_date, now), now) + datetime.timedelta(days=1)


def _day(text: str, default: datetime.datetime) -> datetime.datetime:
    if not text:
        return default.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        return datetime.datetime.strptime(text[:10], "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise BadRequest("a day is written as 2026-11-30") from None


def _get(path: str, work: Any, summary: str, **fields: Any) -> Route:
    return Route(
        method="GET",
        path=path,
        permit=Permit.LOOK,
        work=work,
        summary=summary,
        answer=dict[str, Any],
        **fields,
    )


ROUTES: Final = (
    _get("/v1/dashboard/billing/subscription", _subscription, "As OpenAI's dashboard told it"),
    _get(
        "/v1/dashboard/billing/usage",
        _usage,
        "As OpenAI's dashboard told it, in cents",
        query=DatesQuery,
    ),
    _get("/api/usage/token", _token, "As new-api tells it, in its units"),
)
