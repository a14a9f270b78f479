"""What tests of two hosts stand on: wires, a Valkey's program, a folder of their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.two_hosts import valkey_program
from tests.live.wires import Wires, lay_wires


@pytest.fixture
def folder(reachable: Path) -> Path:
    """A folder that the servers' user can reach."""
    found = Path(tempfile.mkdtemp(prefix="fleet-", dir=reachable))
    found.chmod(0o755)
    return found


@pytest.fixture
def wires() -> Iterator[Wires]:
    """Two hosts' wires."""
    with lay_wires(2) as laid:
        yield laid


@pytest.fixture
def program(reachable: Path) -> Iterator[Path]:
    """A Valkey that may be run."""
    with valkey_program(reachable / "programs") as found:
        yield found
