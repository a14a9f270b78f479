"""`relay bench list` and `relay bench peers`: what there is to run, and beside whom."""

import sys

import click

from benchmarks.peers.install import find, install, missing
from benchmarks.peers.table import PEERS
from benchmarks.report.terminal import say
from benchmarks.scenarios.table import SCENARIOS


@click.command()
def command() -> None:
    """List the scenarios."""
    from benchmarks.scenarios.special import SPECIAL

    for scenario in SCENARIOS.values():
        sys.stdout.write(f"{scenario.name:16} {scenario.about}\n")
    for name, run in SPECIAL.items():
        first, _, _ = (run.__doc__ or "").partition("\n")
        sys.stdout.write(f"{name:16} {first}\n")


@click.command()
@click.option("--install", "wanted", is_flag=True, help="Set up those that can be had.")
@click.argument("names", nargs=-1, type=click.Choice(list(PEERS)))
@click.pass_context
def peers_command(ctx: click.Context, names: tuple[str, ...], *, wanted: bool) -> None:
    """List the peers and what each does; with --install, set up these, or all that can be had."""
    absent = install(names or tuple(PEERS), say) if wanted else {}
    for peer in PEERS.values():
        program = find(peer)
        state = "installed" if program else f"absent: {absent.get(peer.name) or missing(peer)}"
        sys.stdout.write(f"{peer.name:14} {state}\n{'':14} {peer.does}\n")
    ctx.exit(0)
