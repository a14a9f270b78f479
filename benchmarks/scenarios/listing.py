"""`relay bench list`: what there is to run."""

import sys

import click

from benchmarks.scenarios.special import SPECIAL
from benchmarks.scenarios.table import SCENARIOS


@click.command()
def command() -> None:
    """List the scenarios."""
    for scenario in SCENARIOS.values():
        sys.stdout.write(f"{scenario.name:18} {scenario.about}\n")
    for name, run in SPECIAL.items():
        first, _, _ = (run.__doc__ or "").partition("\n")
        sys.stdout.write(f"{name:18} {first}\n")
