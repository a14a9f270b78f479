"""What calls brought in and what they cost at their providers, by line, model and channel.

What a provider charges is told from the tokens of the log, the official price that is kept with a
model, and the share of it that a channel costs (`cost` of a channel; 1 where it is not said). So it
is an estimate: tiers, tools and media are not in it, nor attempts that failed.
"""

import datetime
from typing import Any, Final

import msgspec

from relay.model import Price
from relay.store.postgres import Connection
from relay.units import PPM, TOKENS_PER_PRICE, format_usd

MODELS_MAX: Final = 100
"""Models told apart in metrics; the rest of a line is summed up."""

_SUMS: Final = """
    SELECT lines.name AS line, log.model, channels.name AS channel, channels.cost_ppm,
        models.official, log.requests, log.input_tokens, log.cached_tokens, log.cache_write_tokens,
        log.output_tokens, log.cost_nanos
    FROM (
        SELECT line_id, model, channel_id, count(*) AS requests,
            sum(input_tokens)::bigint AS input_tokens, sum(cached_tokens)::bigint AS cached_tokens,
            sum(cache_write_tokens)::bigint AS cache_write_tokens,
            sum(output_tokens)::bigint AS output_tokens, sum(cost_nanos)::bigint AS cost_nanos
        FROM request_log
        WHERE ended_at >= $1 AND ended_at < $2 AND channel_id <> 0 AND line_id <> 0
            AND ($3::text IS NULL OR model = $3)
        GROUP BY 1, 2, 3
    ) AS log
    JOIN lines ON lines.id = log.line_id AND ($4::text IS NULL OR lines.name = $4)
    JOIN channels ON channels.id = log.channel_id
    LEFT JOIN models ON models.name = log.model
    ORDER BY log.cost_nanos DESC, 1, 2, 3"""


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """A line's calls for a model over a channel. `spent_nanos` None: nobody knows the price."""

    line: str
    model: str
    channel: str
    requests: int
    tokens: int
    earned_nanos: int
    spent_nanos: int | None

    def row(self) -> dict[str, Any]:
        """Return it as commands show it."""
        spent = self.spent_nanos
        kept = None if spent is None else self.earned_nanos - spent
        share = None
        if kept is not None and self.earned_nanos:
            share = f"{100 * kept / self.earned_nanos:.1f}"
        return {
            "line": self.line,
            "model": self.model,
            "channel": self.channel,
            "requests": self.requests,
            "tokens": self.tokens,
            "earned_usd": format_usd(self.earned_nanos),
            "upstream_usd": None if spent is None else format_usd(spent),
            "margin_usd": None if kept is None else format_usd(kept),
            "margin_percent": share,
        }


async def list_margins(
    connection: Connection,
    since: datetime.datetime,
    until: datetime.datetime,
    *,
    model: str | None = None,
    line: str | None = None,
) -> list[Margin]:
    """Return what was earned and spent between two moments, the largest earnings first."""
    rows = await connection.fetch(_SUMS, since, until, model, line)
    return [
        Margin(
            line=row["line"],
            model=row["model"],
            channel=row["channel"],
            requests=row["requests"],
            tokens=row["input_tokens"] + row["output_tokens"],
            earned_nanos=row["cost_nanos"],
            spent_nanos=_spent(row),
        )
        for row in rows
    ]


def _spent(row: Any) -> int | None:
    if row["official"] is None:
        return None
    official = msgspec.json.decode(row["official"], type=Price)
    return spent_nanos(
        official,
        PPM if row["cost_ppm"] is None else row["cost_ppm"],
        (row["input_tokens"], row["cached_tokens"], row["cache_write_tokens"]),
        row["output_tokens"],
        row["requests"],
    )


def spent_nanos(
    official: Price, cost_ppm: int, prompt: tuple[int, int, int], output: int, requests: int
) -> int:
    """Return what tokens cost at a provider. Pure.

    Args:
        official: The list price.
        cost_ppm: The share of it that is paid.
        prompt: Tokens of all prompts, and of these the cached and the written ones.
        output: Tokens of all answers.
        requests: How many calls.
    """
    whole, cached, written = prompt
    tokens = (
        (whole - cached - written) * official.input
        + cached * official.cached_input
        + written * (official.cache_write or official.input)
        + output * official.output
    )
    nanos = tokens + requests * official.per_call * TOKENS_PER_PRICE
    return nanos * cost_ppm // (TOKENS_PER_PRICE * PPM)
