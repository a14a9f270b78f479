"""Goal: whoever rests is woken by all that a writer does below his folders, and by nothing else.

Method: real files; a process that is killed while it holds one.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.store.log.stirring import Stirring

SOON_S = 5.0


def append(folder: Path) -> None:
    with (folder / "one").open("ab") as file:
        file.write(b"more")


def name_another(folder: Path) -> None:
    beside = folder.parent / "beside"
    beside.write_bytes(b"")
    beside.rename(folder / "two")


@pytest.mark.parametrize(
    "stir",
    [
        append,
        name_another,
        lambda folder: (folder / "below").mkdir(),
        lambda folder: (folder / "one").unlink(),
    ],
)
async def test_what_a_writer_does_wakes_who_waits(
    tmp_path: Path, stir: Callable[[Path], None]
) -> None:
    """Before he waits, so that nothing is missed behind his last look, and while he does."""
    for early in (True, False):
        folder = tmp_path / f"folder-{early}"
        folder.mkdir()
        (folder / "one").write_bytes(b"some")
        with Stirring([folder]) as stirring:
            assert stirring.works
            if early:
                stir(folder)
            else:
                asyncio.get_running_loop().call_later(0.01, stir, folder)
            assert await stirring.wait(SOON_S)


async def test_a_writer_that_is_killed_wakes_who_waits(tmp_path: Path) -> None:
    """His files are closed for him; he wrote nothing."""
    holding = "import sys, time; file = open(sys.argv[1], 'ab'); print(flush=True); time.sleep(60)"
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", holding, str(tmp_path / "lock"), stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    await writer.stdout.readline()
    with Stirring([tmp_path]) as stirring:
        assert not await stirring.wait(0.05)
        writer.kill()
        assert await stirring.wait(SOON_S)
    await writer.wait()


async def test_reading_wakes_nobody_and_nothing_is_held_afterwards(tmp_path: Path) -> None:
    """A look of one's own must not end the next rest."""
    (tmp_path / "one").write_bytes(b"some")
    with Stirring([tmp_path]) as stirring:
        assert (tmp_path / "one").read_bytes() == b"some"
        assert not await stirring.wait(0.05)
    assert not stirring.works


async def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """Who cannot be told has to look."""
    with Stirring([tmp_path, tmp_path / "gone"]) as stirring:
        assert not stirring.works
