"""The log as CSV or NDJSON: Postgres writes the text, we pass it on as fast as it is read.

Nothing of it is held: the reader's pace is the pace of the query. A text that a spreadsheet would
take for a formula gets an apostrophe before it (CSV only); none of the log's texts is a caller's
prompt, but a model's name is what the caller said.
"""

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, Final, Literal

from aiohttp import web

from relay.console.queries.calls import Resolved, of_the_log
from relay.console.queries.forms import LogQuery, to_filter
from relay.console.routes import REQUEST_ID, Ask
from relay.console.services import EXPORT_S
from relay.console.signin.actor import Actor

CHUNK_BYTES: Final = 64 * 1024

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


class ExportQuery(LogQuery, frozen=True, kw_only=True):
    """Which calls, and as what."""

    format: Format = "csv"


async def send_export(ask: Ask) -> web.StreamResponse:
    """Stream all calls of a filter, newest first."""
    query: ExportQuery = ask.query
    now = ask.services.now()
    return await stream_rows(ask, query, query.format, ask.actor, now)


async def stream_rows(
    ask: Ask, query: LogQuery, form: Format, actor: Actor, now: datetime.datetime
) -> web.StreamResponse:
    """Stream the calls that an actor may see; a failure on the way cuts the answer off."""
    wanted = to_filter(query, actor.account_id, now)
    csv = form == "csv"
    answer = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8" if csv else "application/x-ndjson",
            "Content-Disposition": f'attachment; filename="relay-log-{now:%Y%m%d-%H%M%S}.{form}"',
            "Cache-Control": "no-store",
            "x-request-id": ask.request[REQUEST_ID],
            "request-id": ask.request[REQUEST_ID],
        }
    )
    async with ask.services.connect_for_export() as connection:
        resolved = await Resolved.of(connection, wanted)
        conditions = of_the_log(resolved, 2)
        statement = write_statement(form, conditions.text)
        await answer.prepare(ask.request)
        with _cut_off(ask.request):
            await connection.copy_from_query(
                statement,
                resolved.since,
                resolved.until,
                *conditions.values,
                output=answer.write,
                timeout=EXPORT_S,  # else it is cut off like any other statement, half a minute in
                **_FORMATS[form],
            )
    await answer.write_eof()
    return answer


@contextlib.contextmanager
def _cut_off(request: web.Request) -> Iterator[None]:
    """Break the connection where an answer cannot be ended: half of it must not look whole."""
    try:
        yield
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise


_FORMATS: Final[dict[str, dict[str, Any]]] = {
    "csv": {"format": "csv", "header": True},
    # No value holds these two bytes (JSON escapes them), so that lines are passed on as they are.
    "ndjson": {"format": "csv", "quote": "\x01", "delimiter": "\x02"},
}


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
