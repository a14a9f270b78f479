"""Goal: a new-api is taken over by one command, as often as one likes; its keys go on working.

Method: the command in process on a real Postgres, from a SQLite file of its tables.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli.root import main
from relay.config import Config
from relay.model import Snapshot
from relay.store import postgres
from relay.store.catalog.keys import mark_key
from relay.store.catalog.snapshot import load_snapshot
from relay.store.secrets.vault import load_pepper, open_vault
from tests.pure.catalog.test_new_api import CHANNEL, OPTIONS, TOKEN, USER, write_sqlite

pytestmark = pytest.mark.live


def run(database_url: str, folder: Path, *arguments: str, code: int = 0) -> Result:
    environ = {"RELAY_DATABASE__URL": database_url, "RELAY_DATA_DIR": str(folder)}
    result = CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert "CANARY" not in result.output
    return result


async def load(database_url: str, folder: Path) -> Snapshot:
    connection = await postgres.connect(database_url)
    try:
        return await load_snapshot(connection, open_vault(Config(), folder, {}))
    finally:
        await connection.close()


def test_everything_is_there_and_twice_is_once(database_url: str, tmp_path: Path) -> None:
    tables: dict[str, list[dict[str, Any]]] = {
        "channels": [CHANNEL, CHANNEL | {"id": 2, "type": 33, "name": "cloud"}],
        "users": [USER],
        "tokens": [TOKEN],
        "options": OPTIONS,
    }
    file = str(write_sqlite(tmp_path / "one-api.db", tables))
    take = ("import", "new-api", file)
    dry = run(database_url, tmp_path, *take, "--dry-run")
    assert "left out: channel cloud: its type 33" in dry.stderr
    assert "+ key alice/laptop" in dry.stdout
    assert "1 balances are not credited" in dry.stderr
    first = run(database_url, tmp_path, *take, "--balances", "--actor", "ops")
    assert "1 balances credited" in first.stderr
    again = run(database_url, tmp_path, *take, "--balances", "--actor", "ops")
    assert "no changes" in again.stdout and "balances credited" not in again.stderr
    assert "2.469134" in run(database_url, tmp_path, "balance", "--account", "alice").stdout
    snapshot = asyncio.run(load(database_url, tmp_path))
    key = snapshot.keys[mark_key(load_pepper(Config(), tmp_path, {}), "sk-CANARYtoken48").digest]
    assert snapshot.accounts[key.account_id].name == "alice"
    [channel] = snapshot.channels.values()
    assert channel.api_key.reveal() == "sk-CANARY-up"
    assert snapshot.prices["gpt-4o"].input == 2_500_000_000


def test_what_is_no_such_file_is_said(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"channels": []}')
    refused = run(database_url, tmp_path, "import", "new-api", str(file), code=78)
    assert "none of the tables" in refused.stderr
