"""One whole relay and one scripted upstream for all tests that call it from outside.

    clients -> relay serve --demo, 2 workers -> relay mock: 20 ms between events, 3 tokens cached

Models "steady" and "other" are on line "town", sold to group "folk" at 0.77 of the list price; the
account is "folk". Each test makes keys of its own, so that none sees another's calls.
"""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.live.relay_process import RELAY, RelayProcess

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady", "other"]
[[line]]
name = "town"
channels = ["mock"]
[[group]]
name = "folk"
multiplier = "0.77"
lines = ["town"]
[[price]]
model = "steady"
input = "0.15"
output = "0.60"
cached_input = "0.075"
[[price]]
model = "other"
input = "1"
output = "2"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    """Base URL of a scripted upstream, a process of its own."""
    behaviour = ("--chunks", "2000", "--interval-ms", "20", "--cached-tokens", "3")
    command = [RELAY, "mock", "--port", "0", *behaviour]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"listens on (\S+)", process.stderr.readline())
        assert found is not None
        yield found[1]
        process.terminate()


@pytest.fixture(scope="session")
def testimony(reachable: Path) -> Path:
    """Folder in which the relay's processes tell what they have mapped; see witness/."""
    folder = reachable / "testimony"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def relay(reachable: Path, testimony: Path, upstream: str) -> Iterator[RelayProcess]:
    """The relay, its catalog in force."""
    witness = Path(__file__).with_name("witness")
    environ = {"PYTHONPATH": str(witness), "WITNESS_DIR": str(testimony)}

    relay = RelayProcess.start(reachable / "town", environ=environ)
    asyncio.run(begin(relay, CATALOG.format(upstream=upstream)))
    yield relay
    asyncio.run(relay.end())


async def begin(relay: RelayProcess, catalog: str) -> None:
    """Wait until the relay serves, and put its catalog in force; end it if that fails."""
    async with AsyncExitStack() as undo:
        await undo.enter_async_context(relay)
        await relay.apply(catalog)
        undo.pop_all()
