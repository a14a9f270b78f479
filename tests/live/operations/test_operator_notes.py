"""Goal: an operator is told what a command leads to, and never that Postgres is at fault for it.

Method: models nobody serves, models without a price; the commands against a real Postgres; a real
pipe that is closed early.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from relay.cli.root import main

pytestmark = pytest.mark.live

RELAY = str(Path(sys.executable).with_name("relay"))
CATALOG = """
[[channel]]
name = "a"
base_url = "http://127.0.0.1:9/v1"
models = ["m", "only-a", "free"]
[[channel]]
name = "b"
base_url = "http://127.0.0.1:9/v1"
models = ["m"]
[[line]]
name = "both"
channels = ["a", "b"]
[[line]]
name = "alone"
channels = ["a"]
[[group]]
name = "g"
lines = ["both", "alone"]
[[account]]
name = "acme"
group = "g"
[[price]]
model = "m"
input = "1"
output = "1"
[[price]]
model = "only-a"
input = "1"
output = "1"
"""

Command = Callable[..., Result]


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {"RELAY_DATABASE__URL": database_url, "RELAY_DATA_DIR": str(tmp_path)}


@pytest.fixture
def relay(environ: dict[str, str], tmp_path: Path) -> Command:
    def run(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(words), env=environ)
        assert result.exit_code == code, result.output
        return result

    (tmp_path / "catalog.toml").write_text(CATALOG)
    return run


def test_models_without_a_price_are_named(relay: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "catalog.toml")
    assert "no [[price]] in this file for free:" in relay("check", file).stderr
    assert "no price: free;" in relay("apply", file).stderr
    assert "no price: free;" in relay("channel", "list").stderr
    assert relay("apply", file, "--dry-run").stderr == ""
    (tmp_path / "catalog.toml").write_text(CATALOG.replace(', "free"', ""))
    assert "price" not in relay("check", file).stderr
    assert "price" not in relay("apply", file).stderr
    assert "price" not in relay("channel", "list").stderr


def test_draining_the_only_channel_says_what_clients_get(relay: Command, tmp_path: Path) -> None:
    relay("apply", str(tmp_path / "catalog.toml"))
    said = relay("channel", "drain", "a").stderr
    assert "line alone has no other channel for free, m, only-a: new calls for them get 404" in said
    assert "line both has no other channel for free, only-a:" in said
    assert "relay channel enable a" in said
    relay("channel", "enable", "a")
    assert "no other channel" not in relay("channel", "drain", "b").stderr
    said = relay("channel", "drain", "a").stderr
    assert "line both has no other channel for free, m, only-a:" in said, "b is drained as well"


async def fill_log(database_url: str, rows: int) -> None:
    """Copy one call so often that its lines cannot wait in a pipe."""
    connection = await asyncpg.connect(database_url)
    try:
        columns = await connection.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_attribute "
            "WHERE attrelid = 'request_log'::regclass AND attnum > 0 AND attnotnull "
            "AND NOT atthasdef AND NOT attisdropped"
        )
        values = [VALUES[row["kind"]] for row in columns]
        names = ", ".join(row["attname"] for row in columns)
        await connection.execute(
            f"INSERT INTO request_log ({names}) SELECT {', '.join(values)} "
            f"FROM generate_series(1, {rows})"
        )
    finally:
        await connection.close()


VALUES = {
    "uuid": "gen_random_uuid()",
    "timestamp with time zone": "now()",
    "bigint": "1",
    "integer": "1",
    "smallint": "1",
    "text": "'x'",
    "boolean": "true",
    "inet": "'127.0.0.1'",
    "numeric": "0",
    "bytea": "''",
    "jsonb": "'{}'",
}


def test_a_reader_who_leaves_is_no_fault_of_postgres(
    environ: dict[str, str], database_url: str
) -> None:
    asyncio.run(fill_log(database_url, 2000))
    with subprocess.Popen(
        [RELAY, "logs", "--json", "--limit", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1, "as every other command of ours that loses its reader"
