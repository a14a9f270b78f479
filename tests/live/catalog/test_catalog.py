"""Goal: a worker's snapshot is the catalog, and follows every change of it within a second.

Method: a real Postgres; changes by SQL as an operator's command makes them; a follower with, and
one without, notifications; the connection cut under it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from relay.errors import ConfigError
from relay.model import Dialect, Snapshot
from relay.store import postgres
from relay.store.catalog.apply import apply, resolve_credentials
from relay.store.catalog.declaration import parse_catalog
from relay.store.catalog.follower import CatalogFollower, Copy
from relay.store.catalog.keys import FreshKey, KeyTerms, create_key, delete_key, set_disabled
from relay.store.catalog.listings import set_drained
from relay.store.catalog.snapshot import (
    load_snapshot,
    read_generation,
    refresh,
    refresh_spent,
)
from relay.store.log.sums import write_folds
from relay.store.migrate import migrate, read_scripts
from relay.store.outage.catalog import write_catalog
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper, Vault
from relay.wire.api_keys import digest
from tests.live.journals import make_end, make_start

VAULT = Vault(bytes(range(32)))
PEPPER = Pepper(b"p" * 32, "test")
CATALOG = b"""
[[channel]]
name = "a"
base_url = "https://a.example/v1"
api_key = "env:A_KEY"
models = ["m", "fast=m-1"]
tier = 1
[[channel]]
name = "b"
base_url = "https://b.example/v1"
models = ["m"]
[[line]]
name = "l"
channels = ["a", "b"]
[[group]]
name = "g"
lines = ["l"]
multiplier = "0.8"
[[price]]
model = "m"
input = "1"
output = "2"
[[price]]
model = "gone"
input = "1"
output = "2"
[[account]]
name = "acme"
group = "g"
credit_limit = "5"
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to a database that holds CATALOG."""
    connection = await postgres.connect(database_url)
    declared = parse_catalog(CATALOG, dedicated_tpm=1, plain_upstreams=True)
    wanted = resolve_credentials(declared, {"A_KEY": "sk-a"}, PEPPER)
    await apply(connection, wanted, VAULT, prune=False, dry_run=False)
    yield connection
    await connection.close()


async def make_key(connection: Connection, terms: KeyTerms | None = None) -> FreshKey:
    return await create_key(connection, PEPPER, "acme", "", terms or KeyTerms())


def digest_of(key: FreshKey) -> bytes:
    return digest(PEPPER.value, key.key.reveal())


class Seen:
    """The snapshots a follower reported, and a way to wait for one."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self._arrived = asyncio.Event()

    def __call__(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self._arrived.set()

    async def until(self, true_of: Callable[[Snapshot], bool], within_s: float) -> float:
        """Wait for a snapshot of which `true_of` holds; return how long that took, in seconds."""
        began_s = time.monotonic()
        async with asyncio.timeout(within_s):
            while not (self.snapshots and true_of(self.snapshots[-1])):
                self._arrived.clear()
                await self._arrived.wait()
        return time.monotonic() - began_s


async def test_snapshot_is_the_catalog(connection: Connection) -> None:
    terms = KeyTerms(models=["m"], networks=["10.0.0.0/8", "::1/128"], quota_nanos=7)
    key = await make_key(connection, terms)
    found = await load_snapshot(connection, VAULT)
    channels = {channel.name: channel for channel in found.channels.values()}
    assert channels["a"].models == {"m": "m", "fast": "m-1"}
    assert channels["a"].api_key.reveal() == "sk-a"
    assert channels["b"].api_key.reveal() == ""
    (line,) = found.lines.values()
    assert line.channel_ids == (channels["a"].id, channels["b"].id)
    assert found.routes[line.id, Dialect.OPENAI, "m"] == (channels["b"], channels["a"])
    assert found.routes[line.id, Dialect.OPENAI, "fast"] == (channels["a"],)
    (group,) = found.groups.values()
    assert (group.line_ids, group.multiplier_ppm) == ((line.id,), 800_000)
    (account,) = found.accounts.values()
    assert (account.group_id, account.credit_limit_nanos) == (group.id, 5_000_000_000)
    assert found.prices["m"].output == 2_000_000_000
    held = found.keys[digest_of(key)]
    assert (held.account_id, held.quota_nanos, held.spent_nanos) == (account.id, 7, 0)
    assert held.models == frozenset({"m"})
    assert [str(network) for network in held.networks or ()] == ["10.0.0.0/8", "::1/128"]
    assert key.key.reveal().endswith(held.last4)


async def test_refresh_reads_the_difference(connection: Connection) -> None:
    kept, gone = await make_key(connection), await make_key(connection)
    old = await load_snapshot(connection, VAULT)
    await delete_key(connection, gone.id)
    added = await make_key(connection)
    await set_drained(connection, "b", drained=True)
    new = await refresh(connection, VAULT, old)
    assert set(new.keys) == {digest_of(kept), digest_of(added)}
    assert new.keys[digest_of(kept)] is old.keys[digest_of(kept)]
    assert new.generation > old.generation
    assert new == await load_snapshot(connection, VAULT)
    assert set(old.keys) == {digest_of(kept), digest_of(gone)}
    assert len(new.routes[next(iter(new.lines)), Dialect.OPENAI, "m"]) == 1


async def test_deleted_account_goes_with_its_keys_kept_out(connection: Connection) -> None:
    old = await load_snapshot(connection, VAULT)
    await connection.execute("UPDATE accounts SET deleted_at = now()")
    new = await refresh(connection, VAULT, old)
    assert (len(old.accounts), new.accounts) == (1, {})


async def test_withdrawn_price_is_no_price(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO prices (model, input, output, cached_input, withdrawn)"
        " VALUES ('gone', 0, 0, 0, true)"
    )
    assert set((await load_snapshot(connection, VAULT)).prices) == {"m"}


async def test_another_master_key_drains_only_that_channel(connection: Connection) -> None:
    found = await load_snapshot(connection, Vault(b"x" * 32))
    drained = {channel.name: channel.drained for channel in found.channels.values()}
    assert drained == {"a": True, "b": False}


async def test_restored_database_is_read_anew(connection: Connection) -> None:
    key = await make_key(connection)
    old = await load_snapshot(connection, VAULT)
    await connection.execute("UPDATE catalog_generation SET generation = 1")
    await connection.execute("UPDATE keys SET name = 'restored'")
    new = await refresh(connection, VAULT, old)
    assert new.generation < old.generation
    assert new.keys[digest_of(key)].name == "restored"


async def test_spending_is_no_change_of_the_catalog(connection: Connection) -> None:
    key = await make_key(connection, KeyTerms(quota_nanos=100))
    free = await make_key(connection)
    old = await load_snapshot(connection, VAULT)
    await connection.execute("UPDATE keys SET spent_nanos = 42, last_used_at = now()")
    assert await read_generation(connection) == old.generation
    new = await refresh_spent(connection, old, within_s=60)
    assert new.keys[digest_of(key)].spent_nanos == 42
    assert new.keys[digest_of(free)] is old.keys[digest_of(free)]
    assert await refresh_spent(connection, new, within_s=60) is new
    await connection.execute("ALTER TABLE keys DISABLE TRIGGER b_spent")
    await connection.execute("UPDATE keys SET spent_at = now() - interval '1 hour'")
    assert await refresh_spent(connection, old, within_s=60) is old


async def test_generations_commit_in_order(connection: Connection, database_url: str) -> None:
    """A writer that began later may not commit before one that holds an older generation."""
    other = await postgres.connect(database_url)
    before = await read_generation(connection)
    try:
        async with connection.transaction():
            await connection.execute("UPDATE lines SET rpm = 1")
            late = asyncio.create_task(other.execute("UPDATE lines SET rpm = 2"))
            _, waiting = await asyncio.wait({late}, timeout=0.2)
            assert waiting
        await late
    finally:
        await other.close()
    assert await connection.fetchval("SELECT rpm FROM lines") == 2
    assert await connection.fetchval("SELECT generation FROM lines") == before + 2


async def test_what_followers_could_not_see_is_refused(connection: Connection) -> None:
    for statement in (
        "DELETE FROM keys",
        "DELETE FROM channels",
        "TRUNCATE keys CASCADE",
        "UPDATE keys SET digest = digest",
        "UPDATE prices SET input = 0",
        "DELETE FROM prices",
    ):
        with pytest.raises(asyncpg.RaiseError, match="is refused"):
            await connection.execute(statement)


@pytest.mark.parametrize("notified", [True, False])
async def test_disabled_key_reaches_a_follower(
    connection: Connection, database_url: str, *, notified: bool
) -> None:
    if not notified:
        await connection.execute("""
            CREATE OR REPLACE FUNCTION catalog_bump() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN UPDATE catalog_generation SET generation = generation + 1; RETURN NULL; END $$""")
    key = await make_key(connection)
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen)

    async def change(*, disabled: bool) -> float:
        await set_disabled(connection, key.id, disabled=disabled)
        return await seen.until(
            lambda new: new.keys[digest_of(key)].disabled is disabled, within_s=10
        )

    try:
        first = await follower.start()
        assert not first.keys[digest_of(key)].disabled
        off = await change(disabled=True)
        await change(disabled=False)
        took_s = off, await change(disabled=True)
        assert min(took_s) < (0.5 if notified else 1.3), took_s
        assert follower.age_s < 3
    finally:
        await follower.stop()


async def test_spent_quota_reaches_a_follower(connection: Connection, database_url: str) -> None:
    key = await make_key(connection, KeyTerms(quota_nanos=100))
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen, poll_s=0.05)
    try:
        await follower.start()
        await connection.execute("UPDATE keys SET spent_nanos = 100")
        await seen.until(lambda new: new.keys[digest_of(key)].spent_nanos == 100, within_s=2)
    finally:
        await follower.stop()


async def test_spent_quota_is_told_to_a_follower_that_hardly_asks(
    connection: Connection, database_url: str
) -> None:
    key = await make_key(connection, KeyTerms(quota_nanos=100))
    free = await make_key(connection)
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen, poll_s=600)
    try:
        await follower.start()
        for one in (free, key):
            start = make_start(key_id=one.id)
            await write_folds(connection, [make_end(start, cost_nanos=40)])
        took_s = await seen.until(
            lambda new: new.keys[digest_of(key)].spent_nanos == 40, within_s=20
        )
        assert took_s < 10  # by its own asking it would be ten minutes
    finally:
        await follower.stop()


async def test_follower_that_hardly_asks_sees_a_cut_at_once(
    connection: Connection, database_url: str
) -> None:
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen, poll_s=600)
    try:
        await follower.start()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        key = await make_key(connection)
        await seen.until(lambda new: digest_of(key) in new.keys, within_s=5)
    finally:
        await follower.stop()


async def test_follower_survives_a_cut(
    connection: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen)
    try:
        first = await follower.start()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        key = await make_key(connection)
        await seen.until(lambda new: digest_of(key) in new.keys, within_s=5)
        assert first.keys == {}
        assert [record.getMessage() for record in caplog.records] == [
            "the catalog cannot be followed: the connection to Postgres is closed",
            "the catalog is followed again after 1 tries",
        ]
    finally:
        await follower.stop()


async def test_follower_outlives_what_it_cannot_read(
    connection: Connection, database_url: str
) -> None:
    seen = Seen()
    follower = CatalogFollower(database_url, VAULT, seen, poll_s=0.05)
    try:
        await follower.start()
        await connection.execute("ALTER TABLE channels DROP CONSTRAINT channels_protocol_check")
        await connection.execute("UPDATE channels SET protocol = 'gopher' WHERE name = 'a'")
        await connection.execute("UPDATE channels SET protocol = 'gemini' WHERE name = 'b'")
        await connection.execute("UPDATE channels SET protocol = 'openai' WHERE name = 'a'")
        protocols = {"openai", "gemini"}
        await seen.until(
            lambda new: {channel.protocol.value for channel in new.channels.values()} == protocols,
            within_s=5,
        )
    finally:
        await follower.stop()


async def test_fault_that_ends_a_follower_is_seen(
    connection: Connection, database_url: str
) -> None:
    def fail_at_second(snapshot: Snapshot) -> None:
        if snapshot.keys:
            raise KeyError("a mistake of ours")

    follower = CatalogFollower(database_url, VAULT, fail_at_second)
    await follower.start()
    await make_key(connection)
    with pytest.raises(KeyError):
        await follower.wait()
    await follower.stop()


async def test_follower_waits_for_its_schema(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = CatalogFollower(empty_database_url, VAULT, lambda _: None)
    starting = asyncio.create_task(follower.start())
    connection = await postgres.connect(empty_database_url)
    try:
        async with asyncio.timeout(20):
            while "is still without 0001_catalog.sql" not in caplog.text:
                await asyncio.sleep(0.01)
            assert not starting.done()
            await migrate(connection)
            assert (await starting).generation >= 0
    finally:
        await follower.stop()
        await connection.close()


async def test_follower_begins_with_the_copy_while_its_schema_is_behind(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """As a start finds it whose migration waits for a table in use."""
    await make_key(connection)
    newest = read_scripts()[-1]
    copy = Copy(tmp_path / "copies" / "catalog", 60.0)
    before = CatalogFollower(database_url, VAULT, lambda _: None)
    write_catalog(copy.path, await before.start(), VAULT)
    await before.stop()
    forget = "DELETE FROM schema_migrations WHERE name = $1"
    await connection.execute(forget, newest.name)
    follower = CatalogFollower(database_url, VAULT, lambda _: None, copy=copy)
    try:
        async with asyncio.timeout(20):
            assert len((await follower.start()).keys) == 1
            await make_key(connection)
            await asyncio.sleep(1.5)
            assert len(follower.snapshot.keys) == 1, "it must not read what it may misread"
            await connection.execute(
                "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)",
                newest.name,
                newest.sha256,
            )
            while len(follower.snapshot.keys) != 2:
                await asyncio.sleep(0.01)
    finally:
        await follower.stop()


async def test_follower_without_a_database_says_so(database_url: str) -> None:
    follower = CatalogFollower(database_url.replace("@/", "@/no_"), VAULT, lambda _: None)
    with pytest.raises(ConfigError):
        await follower.start()
    await follower.stop()


async def test_follower_waits_for_postgres(tmp_path: object) -> None:
    follower = CatalogFollower(f"postgresql://relay@/relay?host={tmp_path}", VAULT, lambda _: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await follower.start()
    assert follower.age_s == float("inf")
    await follower.stop()
