"""`relay top`: lines, channels, workers and keys of a running relay, as they are now."""

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from relay.cli.figures import Frame, Scrape, compare, read_scrape
from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_line
from relay.cli.root import load_context, location_options
from relay.errors import ConfigError, DependencyDown
from relay.places import parse_address

ANSWER_S: Final = 10.0
CALLS_LOOKED_AT: Final = 500
"""Of the request log, for the busiest keys: its newest calls."""
LAG_MS_BAD: Final = 100.0


class Keys(msgspec.Struct, frozen=True):
    """The busiest keys of the newest calls: (account/key, calls, tokens)."""

    calls: int
    rows: list[tuple[str, int, int]]


@click.command()
@location_options
@json_option
@click.option("--admin", metavar="HOST:PORT", help="The relay's admin listener. [as configured]")
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.5, 60), default=2.0, show_default=True,
    metavar="SECONDS", help="Between two looks.",
)  # fmt: skip
@click.option("--rows", type=WholeNumber(1, 1000), default=12, show_default=True, help="A table.")
@click.option(
    "--once", is_flag=True, help="One look, then end; so it is where stdout is no screen."
)
@click.pass_context
def top(
    ctx: click.Context,
    *,
    admin: str | None,
    interval_s: float,
    rows: int,
    once: bool,
    as_json: bool,
) -> None:
    """Watch a running relay: lines, channels, workers, keys. Ctrl-C ends it.

    With --json a look a line.
    """
    config, data_dir = load_context(ctx)
    asked = Asked(admin or config.server.admin, data_dir)
    console = Console()
    once = once or not (console.is_terminal or as_json)
    try:
        if as_json:
            for frame, keys in looks(asked, interval_s, once=once):
                print_line({**msgspec.structs.asdict(frame), "keys": keys})
        elif once:
            for frame, keys in looks(asked, interval_s, once=True):
                console.print(draw(frame, keys, rows))
        else:
            with Live(Text("looking..."), console=console, screen=True, auto_refresh=False) as live:
                for frame, keys in looks(asked, interval_s, once=False):
                    live.update(draw(frame, keys, rows), refresh=True)
    except KeyboardInterrupt:
        return


class Asked:
    """The admin listener of a relay.

    Args:
        address: HOST:PORT.
        data_dir: Holds the admin token; without it the keys are not shown.
    """

    def __init__(self, address: str, data_dir: Path) -> None:
        try:
            self._host, self._port = parse_address(address)
        except ValueError as error:
            raise ConfigError(f"--admin: {error}") from None
        self._token_file = data_dir / "secrets" / "admin.token"

    def scrape(self) -> Scrape:
        """Return what /metrics says.

        Raises:
            DependencyDown: Nobody answers there.
        """
        return read_scrape(self._get("/metrics", {}).decode())

    def keys(self) -> Keys:
        """Return the busiest keys of the newest calls; none where we may not ask."""
        try:
            token = self._token_file.read_text().strip()
        except OSError:
            return Keys(0, [])
        path = f"/admin/v1/logs?limit={CALLS_LOOKED_AT}"
        answer = self._get(path, {"authorization": f"Bearer {token}"})
        return busiest(json.loads(answer).get("logs", []))

    def _get(self, path: str, headers: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_S)
        where = f"http://{self._host}:{self._port}"
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DependencyDown(f"no relay answers at {where}: is it running?") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise DependencyDown(f"{where}{path.partition('?')[0]} answered {answer.status}")
        return content


def looks(asked: Asked, interval_s: float, *, once: bool) -> Iterator[tuple[Frame, Keys]]:
    """Yield what happened in each interval, for ever or once."""
    before, before_s = asked.scrape(), time.monotonic()
    while True:
        time.sleep(interval_s)
        now, now_s = asked.scrape(), time.monotonic()
        yield compare(before, now, now_s - before_s), asked.keys()
        if once:
            return
        before, before_s = now, now_s


def busiest(calls: list[dict[str, Any]]) -> Keys:
    """Return who made the calls, the busiest first."""
    count: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for call in calls:
        who = f"{call.get('account')}/{call.get('key_name')}"
        count[who] += 1
        tokens[who] += (call.get("input_tokens") or 0) + (call.get("output_tokens") or 0)
    return Keys(len(calls), [(who, calls, tokens[who]) for who, calls in count.most_common()])


def draw(frame: Frame, keys: Keys, rows: int) -> Group:
    """Return a look as tables."""
    parts: list[Text | Table] = [_summary(frame), _line_table(frame, rows)]
    parts += [_channel_table(frame, rows), _worker_table(frame, rows)]
    if keys.rows:
        table = _table(f"keys of the newest {keys.calls} calls", "calls", "tokens")
        for who, calls, tokens in keys.rows[:rows]:
            table.add_row(who, str(calls), f"{tokens:,}")
        parts.append(table)
    return Group(*parts)


def _summary(frame: Frame) -> Text:
    first, ours = _pair(frame.first_byte_ms), _pair(frame.overhead_ms)
    text = Text(
        f"{frame.calls_per_s:.1f} calls/s  {frame.events_per_s:.0f} events/s  "
        f"{frame.tokens_per_minute:,.0f} tokens/min  {frame.calls_under_way} under way  "
        f"{frame.connections} connections\n"
        f"first byte p50/p99 {first}  ours {ours}  loop lag {frame.loop_lag_ms_max:.1f} ms  "
        f"log behind {frame.log_lag_bytes / 1024:.0f} KiB\n"
    )
    if frame.errors_per_s or frame.limited_per_s:
        text.append(f"{frame.errors_per_s:.1f} errors/s  {frame.limited_per_s:.1f} limited/s\n")
    if frame.limiter_lost_workers:
        text.append(f"limits live on the shares of {frame.limiter_lost_workers} workers\n", "red")
    return text


def _line_table(frame: Frame, rows: int) -> Table:
    table = _table("line", "calls/s", "tokens/min", "limited/s", "errors/s")
    for line in frame.lines[:rows]:
        table.add_row(
            line.line, f"{line.calls_per_s:.1f}", f"{line.tokens_per_minute:,.0f}",
            f"{line.limited_per_s:.1f}", f"{line.errors_per_s:.1f}",
        )  # fmt: skip
    return table


def _channel_table(frame: Frame, rows: int) -> Table:
    table = _table("channel", "state", "models in trouble", "failures/s", "reason")
    for one in frame.channels[:rows]:
        style = "" if one.state == "in service" else "red"
        table.add_row(
            one.channel, one.state, str(one.models_in_trouble), f"{one.failures_per_s:.1f}",
            one.reason, style=style,
        )  # fmt: skip
    return table


def _worker_table(frame: Frame, rows: int) -> Table:
    table = _table("worker", "under way", "connections", "loop lag", "memory")
    for one in frame.workers[:rows]:
        table.add_row(
            one.worker, str(one.calls), str(one.connections), f"{one.loop_lag_ms:.1f} ms",
            f"{one.memory_mib} MiB", style="red" if one.loop_lag_ms > LAG_MS_BAD else "",
        )  # fmt: skip
    return table


def _table(name: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(name, min_width=16, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _pair(bounds_ms: tuple[float, float] | None) -> str:
    if bounds_ms is None:
        return "-"
    return "/".join("-" if bound == float("inf") else f"{bound:g}" for bound in bounds_ms) + " ms"
