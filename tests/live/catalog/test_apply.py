"""Goal: `relay apply` makes a file hold, exactly once, wholly or not at all, and shows no secret.

Method: a real Postgres; the same file applied again, changed, pruned, broken in every reference,
and by several at once.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.errors import ConfigError
from relay.model import Snapshot
from relay.store import postgres
from relay.store.catalog.apply import apply, resolve_credentials
from relay.store.catalog.declaration import parse_catalog
from relay.store.catalog.keys import KeyTerms, create_key, delete_key
from relay.store.catalog.plan import CatalogChange
from relay.store.catalog.snapshot import load_snapshot, read_generation
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper, Vault
from relay.wire.api_keys import digest

VAULT = Vault(bytes(range(32)))
PEPPER = Pepper(b"p" * 32, "test")
ENVIRON = {"A_KEY": "sk-CANARY-a", "CI_KEY": "relay-CANARY-ci"}
CATALOG = """
[[channel]]
name = "a"
base_url = "https://a.example/v1"
api_key = "env:A_KEY"
models = ["m", "fast=m-1"]
[[line]]
name = "l"
kind = "dedicated"
channels = ["a"]
splice = true
[[group]]
name = "g"
multiplier = "0.8"
lines = ["l"]
[[price]]
model = "m"
input = "0.15"
completion_multiplier = "4"
[[price.tiers]]
above_tokens = 200_000
input = "0.3"
output = "1.2"
[[account]]
name = "acme"
group = "g"
credit_limit = "1.50"
[[key]]
account = "acme"
name = "ci"
key = "env:CI_KEY"
expires = 2099-01-01T00:00:00Z
models = ["m"]
allow_ip = ["10.0.0.0/8"]
quota = "3"
"""
EVERYTHING = ["channel a", "line l", "group g", "price m", "account acme", "key acme/ci"]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to an empty catalog."""
    connection = await postgres.connect(database_url)
    yield connection
    await connection.close()


async def declare(
    connection: Connection,
    text: str = CATALOG,
    *,
    environ: dict[str, str] | None = None,
    pepper: Pepper = PEPPER,
    prune: bool = False,
    dry_run: bool = False,
) -> list[CatalogChange]:
    declared = parse_catalog(text.encode(), dedicated_tpm=30_000_000, plain_upstreams=True)
    wanted = resolve_credentials(declared, environ or ENVIRON, pepper)
    return await apply(connection, wanted, VAULT, prune=prune, dry_run=dry_run)


def told(changes: list[CatalogChange]) -> list[str]:
    return [f"{change.action} {change.kind} {change.name}" for change in changes]


def names(snapshot: Snapshot) -> list[str]:
    """Everything in a snapshot by kind and name."""
    found = [channel.name for channel in snapshot.channels.values()]
    found += [line.name for line in snapshot.lines.values()]
    found += [group.name for group in snapshot.groups.values()]
    found += [account.name for account in snapshot.accounts.values()]
    return sorted(found) + sorted(snapshot.prices)


async def test_apply_declares_everything(connection: Connection) -> None:
    assert told(await declare(connection)) == [f"added {entry}" for entry in EVERYTHING]
    found = await load_snapshot(connection, VAULT)
    assert names(found) == ["a", "acme", "g", "l", "m"]
    (channel,), (line,) = found.channels.values(), found.lines.values()
    assert channel.api_key.reveal() == "sk-CANARY-a"
    assert (line.tpm, line.splice) == (30_000_000, True)
    price = found.prices["m"]
    assert (price.output, price.completion_multiplier_ppm) == (600_000_000, 4_000_000)
    assert price.detail is not None
    assert price.detail.tiers[0].above_tokens == 200_000
    key = found.keys[digest(PEPPER.value, "relay-CANARY-ci")]
    assert (key.name, key.quota_nanos, key.expires_at_s) == ("ci", 3_000_000_000, 4_070_908_800)


async def test_second_apply_changes_nothing(connection: Connection) -> None:
    await declare(connection)
    before = await read_generation(connection)
    assert await declare(connection) == []
    assert await read_generation(connection) == before


async def test_dry_run_changes_nothing(connection: Connection) -> None:
    before = await read_generation(connection)
    assert told(await declare(connection, dry_run=True))[0] == "added channel a"
    assert await read_generation(connection) == before


EDITS = [
    ("a.example", "c.example", "channel a", {"base_url"}),
    ('"fast=m-1"', '"fast=m-2"', "channel a", {"models"}),
    ('api_key = "env:A_KEY"', 'api_key = ""', "channel a", {"credential"}),
    ("splice = true", "tpm = 5", "line l", {"splice", "tpm"}),
    ('"0.8"', '"0.80"', "", set()),
    ('"0.8"', '"0.7"', "group g", {"multiplier"}),
    ('"0.15"', '"0.16"', "price m", {"input", "cached_input"}),
    ('"1.50"', '"2"', "account acme", {"credit_limit"}),
    ('["10.0.0.0/8"]', '["10.0.0.0/9"]', "key acme/ci", {"allow_ip"}),
    ('quota = "3"', "", "key acme/ci", {"quota"}),
    ("2099-01-01T00:00:00Z", "2099-01-01T01:00:00+01:00", "", set()),
]
"""What is edited, the change that makes, and the fields it names."""


async def test_changed_file_changes_that_and_nothing_else(connection: Connection) -> None:
    await declare(connection)
    for old, new, change, fields in EDITS:
        text = CATALOG.replace(old, new)
        changes = await declare(connection, text)
        assert told(changes) == ([f"changed {change}"] if change else [])
        assert {field for found in changes for field in found.fields} == fields
        assert await declare(connection, text) == []
        assert told(await declare(connection)) == told(changes)
    assert len((await load_snapshot(connection, VAULT)).keys) == 1


async def test_changed_secret_is_stored_and_never_shown(connection: Connection) -> None:
    await declare(connection)
    changes = await declare(connection, environ=ENVIRON | {"A_KEY": "sk-CANARY-2"})
    assert told(changes) == ["changed channel a"]
    assert "CANARY" not in repr(changes)
    (channel,) = (await load_snapshot(connection, VAULT)).channels.values()
    assert channel.api_key.reveal() == "sk-CANARY-2"


async def test_unmentioned_api_key_is_kept(connection: Connection) -> None:
    await declare(connection)
    text = CATALOG.replace('api_key = "env:A_KEY"\n', "tier = 3\n")
    assert told(await declare(connection, text)) == ["changed channel a"]
    (channel,) = (await load_snapshot(connection, VAULT)).channels.values()
    assert (channel.tier, channel.api_key.reveal()) == (3, "sk-CANARY-a")


async def test_no_secret_is_stored_in_the_clear(connection: Connection) -> None:
    await declare(connection)
    rows = await connection.fetch(
        "SELECT channels::text AS row FROM channels UNION ALL SELECT keys::text FROM keys"
    )
    assert len(rows) == 2
    for row in rows:
        assert "CANARY" not in row["row"]
        assert b"CANARY".hex() not in row["row"]


async def test_another_pepper_replaces_the_key(connection: Connection) -> None:
    await declare(connection)
    (old,) = (await load_snapshot(connection, VAULT)).keys.values()
    other = Pepper(b"q" * 32, "other")
    assert told(await declare(connection, pepper=other)) == ["changed key acme/ci"]
    (new,) = (await load_snapshot(connection, VAULT)).keys.values()
    assert new.id != old.id
    assert new.digest == digest(other.value, "relay-CANARY-ci")


async def test_prune_removes_what_is_not_mentioned(connection: Connection) -> None:
    await declare(connection)
    minted = await create_key(connection, PEPPER, "acme", "", KeyTerms())
    extra = (
        CATALOG.replace('"a"', '"b"').replace('"l"', '"k"').replace('"g"', '"h"')
        .replace('"acme"', '"bolt"').replace('"m"', '"n"').replace("CI_KEY", "A_KEY")
    )  # fmt: skip
    await declare(connection, extra)
    assert await declare(connection) == []
    assert told(await declare(connection, prune=True)) == [
        "removed channel b",
        "removed line k",
        "removed group h",
        "removed price n",
        "removed account bolt",
        "removed key bolt/ci",
    ]
    found = await load_snapshot(connection, VAULT)
    assert names(found) == ["a", "acme", "g", "l", "m"]
    assert {key.name for key in found.keys.values()} == {"ci", minted.name}
    assert told(await declare(connection, extra.split("[[key]]")[0])) == [
        "added channel b",
        "added line k",
        "added group h",
        "added price n",
        "added account bolt",
    ]


async def test_prune_leaves_kinds_that_the_file_does_not_have(connection: Connection) -> None:
    await declare(connection)
    await declare(connection, CATALOG.split("[[line]]")[0], prune=True)
    assert len((await load_snapshot(connection, VAULT)).lines) == 1


BROKEN = [
    ('channels = ["a"]', 'channels = ["zz"]', "line l: channels: there is no channel 'zz'"),
    ('lines = ["l"]', 'lines = ["zz"]', "group g: lines: there is no line 'zz'"),
    ('group = "g"', 'group = "zz"', "account acme: group: there is no group 'zz'"),
    ('account = "acme"', 'account = "zz"', "key zz/ci: account: there is no account 'zz'"),
    ("[[line]]", '[[channel]]\nname = "a"\nbase_url = "http://a"\nmodels = ["m"]\n[[line]]',
     r"channel a is declared twice - at `$.channel[1]`"),
]  # fmt: skip


async def test_broken_reference_changes_nothing(connection: Connection) -> None:
    before = await read_generation(connection)
    for old, new, says in BROKEN:
        with pytest.raises(ConfigError) as caught:
            await declare(connection, CATALOG.replace(old, new))
        assert caught.value.message == says
    assert await read_generation(connection) == before


async def test_removing_what_is_in_use_is_refused(connection: Connection) -> None:
    await declare(connection)
    other = '[[channel]]\nname = "b"\nbase_url = "https://b.example"\nmodels = ["m"]'
    with pytest.raises(ConfigError, match="line l: channels: there is no channel 'a'"):
        await declare(connection, other, prune=True)


async def test_deleted_key_does_not_come_back(connection: Connection) -> None:
    await declare(connection)
    (key,) = (await load_snapshot(connection, VAULT)).keys.values()
    await delete_key(connection, key.id)
    with pytest.raises(ConfigError, match=r"key acme/ci: .* was deleted"):
        await declare(connection)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"CI_KEY": "relay-CANARY"}, r"\$\.channel\[0\]\.api_key: env:A_KEY is not set"),
        ({"A_KEY": "sk-CANARY"}, r"\$\.key\[0\]\.key: env:CI_KEY is not set"),
        ({"A_KEY": "sk-CANARY", "CI_KEY": "CANARY"}, r"\$\.key\[0\]\.key: a key is 8 char"),
        ({"A_KEY": "sk\x01CANARY", "CI_KEY": "relay-CANARY"}, "plain ASCII"),
    ],
)
def test_missing_secret_is_named_by_its_path(environ: dict[str, str], says: str) -> None:
    declared = parse_catalog(CATALOG.encode(), dedicated_tpm=1, plain_upstreams=True)
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_credentials(declared, environ, PEPPER)
    assert "CANARY" not in caught.value.message


async def test_two_applies_take_turns(connection: Connection, database_url: str) -> None:
    other = await postgres.connect(database_url)
    try:
        both = await asyncio.gather(declare(connection), declare(other))
    finally:
        await other.close()
    assert sorted(map(len, both)) == [0, len(EVERYTHING)]


async def test_row_edited_by_hand_is_reported(connection: Connection) -> None:
    await declare(connection)
    await connection.execute("UPDATE channels SET base_url = 'nonsense'")
    with pytest.raises(ConfigError, match="the catalog in the database is damaged: base_url"):
        await declare(connection)
