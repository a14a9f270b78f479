"""`relay bench`: hands over to the benchmark suite, which is not part of the installed package."""

import sys
from pathlib import Path
from typing import Final

import click

import relay

CHECKOUT: Final = Path(relay.__file__).parents[1]


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run the benchmark suite of this checkout; `relay bench --help` tells more."""
    if not (CHECKOUT / "benchmarks" / "command.py").exists():
        raise click.ClickException(
            "the benchmark suite is in the project's repository, in benchmarks/, and not in the "
            "installed package: clone it, `make bench` there"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    from benchmarks.command import bench as suite

    ctx.exit(suite.main(list(arguments), "relay bench", standalone_mode=False) or 0)
