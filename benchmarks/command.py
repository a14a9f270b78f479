"""`relay bench`: runs scenarios, writes the report, holds it against a baseline.

    relay bench                                   the standard suite: report.html
    relay bench --suite cost --targets relay,plain_aiohttp,nginx --repeats 3        a quick A/B
    relay bench --scenarios sse_paced --targets relay,nginx
    relay bench --suite cost --compare            against the baseline that is kept
    relay bench --url http://127.0.0.1:8080/v1 --key env:KEY --model M --rate 100 --stream
    relay bench baseline | readme | capacity      of the report that is kept
    relay bench peers --install | list | soak | micro | limits | rows | settlements

Exit codes: 0 ok, 1 failed or a regression, 2 usage.
"""

import importlib
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.report.compare import BASELINE, EXIT_REGRESSION, MARGIN

_SUBCOMMANDS: Final = {
    "baseline": "benchmarks.report.compare:command",
    "capacity": "benchmarks.report.capacity:command",
    "limits": "benchmarks.micro.limits:command",
    "list": "benchmarks.scenarios.listing:command",
    "micro": "benchmarks.micro.pure:command",
    "peers": "benchmarks.peers.listing:command",
    "readme": "benchmarks.report.readme:command",
    "rows": "benchmarks.micro.rows:command",
    "settlements": "benchmarks.micro.settlements:command",
    "soak": "benchmarks.soak.run:command",
}
_REPEATS_MAX: Final = 20


class _Lazy(click.Group):
    """Imports a subcommand's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _SUBCOMMANDS:
            return None
        module, _, attribute = _SUBCOMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def _split(_ctx: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


@click.group(cls=_Lazy, invoke_without_command=True, help=__doc__)
@click.option(
    "--suite",
    type=click.Choice(["cost", "standard", "full"]),
    default="standard",
    show_default=True,
    help="cost: what a call and an event cost. full: every scenario.",
)
@click.option("--scenarios", default="", callback=_split, metavar="A,B", help="Only these.")
@click.option("--targets", default="", callback=_split, metavar="A,B", help="relay, nginx, ...")
@click.option("--all-peers", is_flag=True, help="Every peer that is installed.")
@click.option("--repeats", type=click.IntRange(1, _REPEATS_MAX), help="[3; standard suite: 2]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where to.")
@click.option(
    "--compare",
    "baseline",
    is_flag=False,
    flag_value=str(BASELINE),
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="[FILE]",
    help="Exit 1 where a ratio to nginx, or with --url what its users see, got worse beyond the "
    "margin. FILE: a baseline or a report  [benchmarks/results/baseline.json]",
)
@click.option(
    "--report",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: compare this report, or with --out draw its page again.",
)
@click.option("--margin", type=click.FloatRange(0, 10), default=MARGIN, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The report on stdout.")
@click.option("--url", help="Measure this base URL instead: any OpenAI-compatible server.")
@click.option("--key", default="", help="For --url: env:NAME or file:PATH.")
@click.option("--model", default="gpt-4o-mini", show_default=True, help="For --url.")
@click.option("--rate", type=click.FloatRange(0.01, 100_000), help="For --url: calls a second.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=32,
    show_default=True,
    help="For --url without --rate: closed loop over so many connections.",
)
@click.option("--duration", type=click.FloatRange(1, 86_400), default=10.0, show_default=True)
@click.option("--stream/--no-stream", default=True, show_default=True, help="For --url.")
@click.option("--prompt-bytes", type=click.IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1, 1_000_000), default=64, show_default=True)
@click.option(
    "--generators",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that put the load on.",
)
@click.option("--allow-remote", is_flag=True, help="--url may name another machine.")
@click.pass_context
def bench(ctx: click.Context, /, **given: Any) -> None:
    """Run the benchmark suite."""
    if ctx.invoked_subcommand is None:
        from benchmarks.session import run_session

        ctx.exit(EXIT_REGRESSION if run_session(given) else 0)
