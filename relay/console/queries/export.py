"""What an export asks of Postgres: the log in turns of some thousand calls, newest first.

One statement for all of it may be planned as a sort of millions of rows: nothing comes for a
minute, gigabytes are spilled, and every core is busy with it meanwhile. A turn is found by the
index that has its order, written by COPY, and over within a fraction of a second: what it costs is
bounded, it holds no snapshot for longer, and between two of them there is room for others.
"""

import datetime
from typing import Any, Final, Literal, NamedTuple

from relay.console.queries.calls import Resolved, of_the_log
from relay.console.queries.forms import CallFilter, LogCursor, from_us, to_us
from relay.store.postgres import Connection

TURN_ROWS: Final = 10_000
"""Calls of a turn: about a tenth of a second of Postgres."""
ROWS_PER_S_MAX: Final = 60_000
"""Fast enough for ten million in three minutes, and less than a processor has time for."""
TURN_S: Final = 0.1
"""A look that takes longer looked too far back."""
SPAN: Final = datetime.timedelta(hours=1)
SPAN_MIN: Final = datetime.timedelta(minutes=1)
SPAN_MAX: Final = datetime.timedelta(days=30)
GROWTH: Final = 4
"""How much farther back is looked next where a turn found few calls, and that in no time."""

SESSION: Final = {
    # A turn is short; compiling it, or starting others to help, would take longer than it, and
    # take it from those who wait.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    # Planned for its own span: only so the days that it does not touch are left out beforehand.
    "plan_cache_mode": "force_custom_plan",
}

Format = Literal["csv", "ndjson"]

COLUMNS: Final = (
    ("request_id", "'req_' || replace(log.request_id::text, '-', '')", False),
    ("time", 'to_char(log.ended_at, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\')', False),
    ("account", "accounts.name", True),
    ("key_id", "log.key_id", False),
    ("key_name", "keys.name", True),
    ("ip", "host(log.ip)", False),
    ("line", "lines.name", True),
    ("channel", "channels.name", True),
    ("model", "log.model", True),
    ("served_model", "log.served_model", True),
    ("endpoint", "log.endpoint", True),
    ("stream", "log.stream", False),
    ("status", "log.status", False),
    ("reason", "log.reason", True),
    ("error_code", "log.error_code", True),
    ("input_tokens", "log.input_tokens", False),
    ("cached_tokens", "log.cached_tokens", False),
    ("cache_write_tokens", "log.cache_write_tokens", False),
    ("output_tokens", "log.output_tokens", False),
    ("reasoning_tokens", "log.reasoning_tokens", False),
    ("estimated", "log.estimated", False),
    ("cost_usd", "trim_scale(log.cost_nanos * 0.000000001)::text", False),
    ("ttft_ms", "nullif(log.ttft_us, 0) / 1000.0::float8", False),
    ("total_ms", "log.total_us / 1000.0::float8", False),
    ("attempts", "log.attempts", False),
    ("translated", "log.translated", True),
)
"""Name, expression, whether it is a text that somebody chose."""
_SAFE: Final = "CASE WHEN {0} ~ '^[-=+@\\t\\r\\n]' THEN '''' || {0} ELSE {0} END"
_FROM: Final = """
    FROM (
        SELECT * FROM request_log WHERE ended_at >= $1 AND ended_at < $2 AND {conditions}
    ) AS log
    LEFT JOIN accounts ON accounts.id = log.account_id LEFT JOIN keys ON keys.id = log.key_id
    LEFT JOIN lines ON lines.id = log.line_id LEFT JOIN channels ON channels.id = log.channel_id
    ORDER BY log.ended_at DESC, log.request_id DESC"""
# How many calls there are in a span, up to a bound, and which of these is the last.
_LAST: Final = """
    SELECT count(*) OVER () AS calls, ended_at, request_id FROM (
        SELECT ended_at, request_id FROM request_log
        WHERE ended_at >= $1 AND ended_at < $2 AND {conditions}
        ORDER BY ended_at DESC, request_id DESC LIMIT $3
    ) AS turn ORDER BY ended_at, request_id LIMIT 1"""


class Turn(NamedTuple):
    """Calls that are written in one go: the statement, and the values of its placeholders."""

    statement: str
    values: tuple[Any, ...]


class Turns:
    """Goes through the calls of a filter, newest first, each of them in one turn.

    Args:
        wanted: Which calls.
        form: What their lines look like.
        rows_max: How many calls a turn has at most, those aside that come while it is written.
    """

    def __init__(self, wanted: Resolved, form: Format, rows_max: int = TURN_ROWS) -> None:
        self._wanted = wanted
        self._form: Format = form
        self._rows_max = rows_max
        self._until = wanted.until
        self._before: LogCursor | None = None
        self._span = SPAN
        self._full = False

    @classmethod
    async def of(cls, connection: Connection, wanted: CallFilter, form: Format) -> "Turns":
        """Return the turns of a filter whose names are not looked up yet."""
        return cls(await Resolved.of(connection, wanted), form)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to look at."""
        return self._until <= self._wanted.since

    async def find(self, connection: Connection) -> Turn | None:
        """Return the next turn; None: there was no call in as much as was looked at."""
        since = max(self._until - self._span, self._wanted.since)
        query = of_the_log(self._wanted, 3, self._before)
        statement = _LAST.format(conditions=query.text)
        last = await connection.fetchrow(
            statement, since, self._until, self._rows_max, *query.values
        )
        self._full = last is not None and last["calls"] >= self._rows_max
        if last is None or not self._full:
            turn = None if last is None else self._write(since, None)
            self._until, self._before = since, None
            return turn
        ends = LogCursor(to_us(last["ended_at"]), last["request_id"])
        turn = self._write(last["ended_at"], ends)
        covered = self._until - last["ended_at"]
        self._span = min(max(GROWTH * covered, SPAN_MIN), SPAN_MAX)
        self._until = from_us(ends.ended_us + 1)
        self._before = ends
        return turn

    def took(self, seconds: float) -> None:
        """Look farther back next time, or less far, by how long this took."""
        if seconds > GROWTH * TURN_S:
            self._span = max(self._span / GROWTH, SPAN_MIN)
        elif seconds < TURN_S and not self._full:
            self._span = min(GROWTH * self._span, SPAN_MAX)

    def _write(self, since: datetime.datetime, ends: LogCursor | None) -> Turn:
        """Return the turn from where the one before ended down to `since` and the call `ends`."""
        query = of_the_log(self._wanted, 2, self._before)
        if ends is not None:
            at = 2 + len(query.values) + 1
            query.values += [from_us(ends.ended_us), ends.request_id]
            query.texts.append(f"(ended_at, request_id) >= (${at}, ${at + 1})")
        statement = write_statement(self._form, query.text)
        return Turn(statement, (since, self._until, *query.values))


def write_statement(form: Format, conditions: str) -> str:
    """Return the query whose rows are the export's lines."""
    fields = ", ".join(
        f"{_SAFE.format(expression) if chosen and form == 'csv' else expression} AS {name}"
        for name, expression, chosen in COLUMNS
    )
    lines = f"SELECT {fields} {_FROM.format(conditions=conditions)}"
    if form == "csv":
        return lines
    return f"SELECT row_to_json(told)::text FROM ({lines}) AS told"  # noqa: S608
