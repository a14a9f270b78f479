"""`relay doctor`: what is wrong with this host, and the command that mends it."""

import asyncio
import datetime
import os
import ssl
from pathlib import Path

import click
import msgspec

from relay.cli.output import json_option, print_json
from relay.cli.root import EXIT_FAILED, load_context, location_options
from relay.cli.session import ask_the_relay


@click.command()
@location_options
@json_option
@click.option(
    "--certificate",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A certificate of your own, such as your TLS proxy's; repeatable.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Authorities that upstreams' certificates may be signed by as well.",
)
@click.pass_context
def doctor(
    ctx: click.Context, *, as_json: bool, certificates: tuple[Path, ...], ca: Path | None
) -> None:
    """Examine this host and what the relay stands on; exit 1 where something is to be mended."""
    from relay.control.doctor.examine import Case, examine

    config, data_dir = load_context(ctx)
    ask_the_relay(data_dir)
    trust = ssl.create_default_context()
    if ca is not None:
        trust.load_verify_locations(ca)
    case = Case(
        config=config,
        data_dir=data_dir,
        environ=os.environ,
        certificates=certificates,
        trust=trust,
        now=datetime.datetime.now(datetime.UTC),
    )
    found = asyncio.run(examine(case))
    if as_json:
        print_json([msgspec.structs.asdict(one) for one in found])
    else:
        width = max(len(one.check) for one in found)
        for one in found:
            click.echo(f"{'ok  ' if one.ok else 'MEND'}  {one.check.ljust(width)}  {one.value}")
            if one.mend:
                click.echo(f"      {' ' * width}  -> {one.mend}")
    if not all(one.ok for one in found):
        ctx.exit(EXIT_FAILED)
