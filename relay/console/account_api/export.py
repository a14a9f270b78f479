"""The log as CSV or NDJSON: Postgres writes the text, we pass it on as fast as it is read.

Nothing of it is held: the reader's pace is the pace of the query. A text that a spreadsheet would
take for a formula gets an apostrophe before it (CSV only); none of the log's texts is a caller's
prompt, but a model's name is what the caller said. Between two turns an export gives way to whoever
waits for the processor.
"""

import asyncio
import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from relay.console.pace import Pace, read_waited_s
from relay.console.queries.export import COLUMNS, ROWS_PER_S_MAX, Format, Turns
from relay.console.queries.forms import LogQuery, to_filter
from relay.console.routes import REQUEST_ID, Ask
from relay.console.services import EXPORT_S
from relay.console.signin.actor import Actor
from relay.store.postgres import Connection

CSV_HEAD: Final = (",".join(name for name, _, _ in COLUMNS) + "\n").encode()


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
        turns = await Turns.of(connection, wanted, form)
        await answer.prepare(ask.request)
        with _cut_off(ask.request):
            async with asyncio.timeout(EXPORT_S):
                if csv:
                    await answer.write(CSV_HEAD)
                await _write(answer, connection, turns, form)
    await answer.write_eof()
    return answer


async def _write(
    answer: web.StreamResponse, connection: Connection, turns: Turns, form: Format
) -> None:
    """Write turn after turn, at a pace that leaves the machine to calls."""
    pace = Pace(time.monotonic, read_waited_s)
    while not turns.over:
        pace.begin()
        turn = await turns.find(connection)
        turns.took(pace.worked_s())
        rows = 0
        if turn is not None:
            copied = await connection.copy_from_query(
                turn.statement,
                *turn.values,
                output=answer.write,
                timeout=EXPORT_S,  # its reader may be slow; what bounds it is around all of it
                **_FORMATS[form],
            )
            rows = int(copied.rpartition(" ")[2])
        await asyncio.sleep(pace.rest_s(rows / ROWS_PER_S_MAX))


@contextlib.contextmanager
def _cut_off(request: web.Request) -> Iterator[None]:
    """Break the connection where an answer cannot be ended: half of it must not look whole."""
    try:
        yield
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise


_FORMATS: Final[dict[Format, dict[str, Any]]] = {
    "csv": {"format": "csv"},
    # No value holds these two bytes (JSON escapes them), so that lines are passed on as they are.
    "ndjson": {"format": "csv", "quote": "\x01", "delimiter": "\x02"},
}
