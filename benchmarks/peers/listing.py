"""`relay bench peers`: whom the relay is measured beside, and setting them up."""

import sys

import click

from benchmarks.peers.install import find, install, missing
from benchmarks.peers.table import PEERS
from benchmarks.report.terminal import say


@click.command()
@click.option("--install", "wanted", is_flag=True, help="Set up those that can be had.")
@click.argument("names", nargs=-1, type=click.Choice(list(PEERS)))
def command(names: tuple[str, ...], *, wanted: bool) -> None:
    """List the peers and what each does; with --install, set up these, or all that can be had."""
    absent = install(names or tuple(PEERS), say) if wanted else {}
    for peer in PEERS.values():
        program = find(peer)
        state = "installed" if program else f"absent: {absent.get(peer.name) or missing(peer)}"
        sys.stdout.write(f"{peer.name:14} {state}\n{'':14} {peer.does}\n")
    # Said again where nobody can miss it: a comparison without them is another comparison.
    for name, reason in absent.items():
        say(f"NOT installed: {name}: {reason}")
