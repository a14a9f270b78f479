"""`relay upgrade`: have the relay that runs become the release and the configuration of now."""

import os
import signal
import time
from pathlib import Path
from typing import Final

import click

from relay.cli.root import data_dir, location_options
from relay.errors import RelayError, Unavailable
from relay.process.succession import outcome
from relay.process.succession.outcome import Outcome, Result

POLL_S: Final = 0.1
PATIENCE_S: Final = 180.0
"""A rehearsal, the start of every worker, and the way back take less; beside them a schema that is
brought up to date, which has bounds of its own."""


@click.command()
@location_options
@click.pass_context
def upgrade(ctx: click.Context) -> None:
    """Become the release and the configuration of now, without a pause.

    Running streams finish on the workers that they began on. A release or a configuration that
    cannot serve is left for the one before, and this ends with 1 and says why.
    """
    place = data_dir(ctx)
    before = outcome.read(place)
    if before is None or not before.alive:
        raise Unavailable(f"no relay runs on {place}")
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise RelayError("run this as root, or as the user that the relay runs as") from None
    after = _wait(place, before)
    if after.result is not Result.DONE:
        raise RelayError(f"{after.result.value}: {after.reason} ({after.release} serves on)")
    click.echo(f"{after.release} serves", err=True)


def _wait(place: Path, before: Outcome) -> Outcome:
    """Wait until a reload that was asked for after `before` has ended."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        found = outcome.read(place)
        if found is not None and found.reloads > before.reloads:
            if found.result is not Result.RUNNING:
                return found
            if not found.alive:
                raise RelayError("the relay has ended; its log says why")
            if found.reason:
                until_s = time.monotonic() + PATIENCE_S
        time.sleep(POLL_S)
    raise RelayError(f"no answer in {PATIENCE_S:.0f} s; the relay's log says more")
