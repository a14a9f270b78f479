"""`relay mock`: a scripted OpenAI-compatible upstream for the demonstration, tests, benchmarks."""

import asyncio
import gc
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.numbers import WholeNumber
from relay.cli.root import location_options

if TYPE_CHECKING:
    from relay.mock.options import MockOptions

_FAIL_HELP = """MODE[:ARG][@PROBABILITY], for example cut-after:3 or status:503@0.2; repeatable.
The same for one request: header x-mock-fail, or a model named fail-MODE. An unknown mode lists
all of them."""


def _milliseconds() -> click.FloatRange:
    return click.FloatRange(0, 3_600_000)


def _file() -> click.Path:
    return click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=9090, show_default=True, type=WholeNumber(0, 65_535), help="0 = any free."
)
@click.option("--name", default="mock", show_default=True, help="Part of ids and fingerprints.")
@click.option(
    "--chunks",
    default=20,
    show_default=True,
    type=WholeNumber(0, 1_000_000),
    help="Tokens of a whole answer.",
)
@click.option(
    "--interval-ms",
    default=0.0,
    show_default=True,
    type=_milliseconds(),
    help="Between two events; 0 = as fast as they are read.",
)
@click.option(
    "--ttft-ms",
    default=0.0,
    show_default=True,
    type=_milliseconds(),
    help="Before the first byte of an answer.",
)
@click.option(
    "--body-bytes",
    default=0,
    show_default=True,
    type=WholeNumber(0, 64 * 1024 * 1024),
    help="Stretch an answer's text to this size; 0 = plain words.",
)
@click.option(
    "--cached-tokens",
    default=0,
    show_default=True,
    type=WholeNumber(0),
    help="Report this much of a prompt as read from a cache.",
)
@click.option(
    "--tokens-per-event",
    default=1,
    show_default=True,
    type=WholeNumber(1, 1000),
    help="In a stream.",
)
@click.option("--crlf", is_flag=True, help="End events in CRLF CRLF.")
@click.option("--no-usage", "usage", flag_value=False, default=True, help="Never report usage.")
@click.option("--no-done", "done", flag_value=False, default=True, help="Send no [DONE].")
@click.option("--echo-prefix", is_flag=True, help="Repeat the prefix of a `prefix` request.")
@click.option("--api-key", default="", help="Answer any other credential with 401.")
@click.option("--fail", multiple=True, metavar="FAULT", help=_FAIL_HELP)
@click.option("--seed", default=0, show_default=True, help="For faults with a probability.")
@click.option(
    "--served",
    "served_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append each call that ended as a JSON line.",
)
@click.option("--tls-cert", type=_file(), help="PEM; with --tls-key, serve HTTPS.")
@click.option("--tls-key", type=_file(), help="PEM.")
@location_options
def mock(host: str, port: int, **settings: Any) -> None:
    """Run a scripted OpenAI-compatible upstream: deterministic answers, failures on demand.

    GET /_mock/state and /_mock/served tell what it did; POST /_mock/fail {"fail": "hang"} breaks
    it while it runs, {"fail": null} heals it.
    """
    import uvloop

    from relay.mock.options import MockOptions

    uvloop.run(_serve(MockOptions(**settings), host, port))


async def _serve(options: "MockOptions", host: str, port: int) -> None:
    from relay.mock.server import start

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        server = await start(options, host, port)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot start on {host}:{port}: {error.strerror}") from error
    click.echo(f"mock {options.name} listens on {server.url}", err=True)
    # What start-up made stays; a full collection in the middle of a benchmark would show in p99.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    await stopped.wait()
    await server.close()
