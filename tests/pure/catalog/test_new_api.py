"""Goal: what a new-api keeps comes over whole, costs what it cost, or is left out by name.

Method: rows as its tables have them, from JSON and from a SQLite file; each reason to leave a row
out is a row.
"""

import datetime
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.errors import ConfigError
from relay.store.catalog.new_api import Balance, Converted, convert
from relay.store.catalog.new_api_rows import Tables, read_tables

NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
PAST, LATER = 1_700_000_000, 1_900_000_000
CHANNEL: dict[str, Any] = {
    "id": 1, "type": 1, "key": "sk-CANARY-up", "status": 1, "name": "main", "weight": 0,
    "base_url": "", "models": "gpt-4o,mini", "group": "default,vip", "priority": 5,
    "model_mapping": '{"mini": "gpt-4o-mini"}',
}  # fmt: skip
USER = {"id": 7, "username": "alice", "group": "default", "quota": 1_234_567, "status": 1}
TOKEN: dict[str, Any] = {
    "id": 3, "user_id": 7, "key": "CANARYtoken48", "status": 1, "name": "laptop",
    "expired_time": -1, "remain_quota": 0, "unlimited_quota": 1, "model_limits_enabled": 0,
    "model_limits": "", "allow_ips": "", "group": "",
}  # fmt: skip
OPTIONS = [
    {"key": "GroupRatio", "value": '{"default": 1, "vip": 0.8, "plus": 1.0}'},
    {"key": "ModelRatio", "value": '{"gpt-4o": 1.25, "mini": 0.075}'},
    {"key": "CompletionRatio", "value": '{"gpt-4o": 4, "mini": 4}'},
]


def take(**tables: list[dict[str, Any]]) -> Converted:
    plain = {"channels": [CHANNEL], "users": [USER], "tokens": [TOKEN], "options": OPTIONS}
    return convert(Tables(**(plain | tables)), NOW)


def test_everything_comes_over() -> None:
    found = take()
    declared = found.declared
    [channel] = declared.channel
    assert (channel.name, channel.kind, channel.base_url) == (
        "main",
        "openai",
        "https://api.openai.com/v1",
    )
    assert channel.models == ["gpt-4o", "mini=gpt-4o-mini"] and channel.weight == 1
    assert found.environ == {
        "NEW_API_CHANNEL_1_1": "sk-CANARY-up",
        "NEW_API_TOKEN_3": "sk-CANARYtoken48",
    }
    assert [(line.name, line.channels) for line in declared.line] == [
        ("default", ["main"]),
        ("vip", ["main"]),
    ]
    assert [(one.name, one.multiplier, one.lines) for one in declared.group] == [
        ("default", "1", ["default"]),
        ("plus", "1", []),
        ("vip", "0.8", ["vip"]),
    ]
    assert [(one.name, one.group) for one in declared.account] == [("alice", "default")]
    [key] = declared.key
    assert (key.account, key.name, key.quota, key.lines) == ("alice", "laptop", "", None)
    prices = {price.model: (price.input, price.completion_multiplier) for price in declared.price}
    assert prices == {"gpt-4o": ("2.5", "4"), "mini": ("0.15", "4")}
    assert found.balances == [Balance("alice", "2.469134000", "new-api-user-7")]
    assert not found.left_out


def test_priorities_become_tiers_and_equal_names_are_told_apart() -> None:
    rows = [
        CHANNEL | {"id": 1, "priority": 0},
        CHANNEL | {"id": 2, "priority": 9},
        CHANNEL | {"id": 3, "priority": None, "weight": 20},
    ]
    found = take(channels=rows).declared.channel
    assert [(one.name, one.tier, one.weight) for one in found] == [
        ("main", 1, 1),
        ("main 2", 0, 1),
        ("main 3", 1, 20),
    ]


def test_several_keys_of_a_channel() -> None:
    found = take(channels=[CHANNEL | {"key": "sk-a\nsk-b\n"}])
    assert found.declared.channel[0].references == [
        "env:NEW_API_CHANNEL_1_1",
        "env:NEW_API_CHANNEL_1_2",
    ]
    assert found.environ["NEW_API_CHANNEL_1_2"] == "sk-b"


@pytest.mark.parametrize(
    ("number", "told", "wanted"),
    [
        (1, "https://proxy.example", "https://proxy.example/v1"),
        (1, "https://proxy.example/v1/", "https://proxy.example/v1"),
        (8, "https://other.example", "https://other.example/v1"),
        (14, "", "https://api.anthropic.com"),
        (24, "https://g.example", "https://g.example"),
        (26, "https://open.bigmodel.cn", "https://open.bigmodel.cn/api/paas/v4"),
        (43, "https://api.deepseek.com", "https://api.deepseek.com/beta"),
        (43, "https://deep.example", "https://deep.example/v1"),
        (45, "", "https://ark.cn-beijing.volces.com/api/v3"),
    ],
)
def test_addresses(number: int, told: str, wanted: str) -> None:
    [channel] = take(channels=[CHANNEL | {"type": number, "base_url": told}]).declared.channel
    assert channel.base_url == wanted


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"status": 2}, "switched off"),
        ({"type": 33}, "type 33"),
        ({"type": 8}, "no address"),
        ({"models": ""}, "no models"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"key": "sk-\u00fc"}, "plain ASCII"),
        ({"key": "\n".join(f"k{n}" for n in range(65))}, "65 keys"),
    ],
)
def test_channels_that_are_left_out(changed: dict[str, Any], why: str) -> None:
    found = take(channels=[CHANNEL | changed])
    assert not found.declared.channel and why in found.left_out["channel main"]
    assert "CANARY" not in str(found.left_out)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"status": 2}, "switched off"),
        ({"status": 4}, "used up"),
        ({"expired_time": PAST}, "expired"),
        ({"unlimited_quota": 0, "remain_quota": 0}, "nothing is left"),
        ({"group": "vip"}, "costs 0.8 of the price"),
        ({"group": "plus"}, "has no channel"),
        ({"allow_ips": "not an address"}, "allow_ip"),
        ({"key": "\u00fc" * 10}, "plain ASCII"),
    ],
)
def test_tokens_that_are_left_out(changed: dict[str, Any], why: str) -> None:
    found = take(tokens=[TOKEN | changed])
    assert not found.declared.key and why in found.left_out["token alice/laptop"]
    assert "CANARY" not in str(found.left_out)


def test_terms_of_a_token() -> None:
    row = TOKEN | {
        "expired_time": LATER,
        "unlimited_quota": 0,
        "remain_quota": 750_000,
        "model_limits_enabled": 1,
        "model_limits": "mini,gpt-4o",
        "allow_ips": "10.0.0.1\n192.0.2.0/24,",
    }
    [key] = take(tokens=[row]).declared.key
    assert key.quota == "1.5" and key.models == ["gpt-4o", "mini"]
    assert key.allow_ip == ["10.0.0.1/32", "192.0.2.0/24"]
    assert key.expires == datetime.datetime.fromtimestamp(LATER, datetime.UTC)


def test_a_token_of_another_group_at_the_same_price_has_its_line() -> None:
    channels = [CHANNEL, CHANNEL | {"id": 2, "name": "plus", "group": "plus"}]
    declared = take(channels=channels, tokens=[TOKEN | {"group": "plus"}]).declared
    assert declared.key[0].lines == ["plus"]
    assert next(one.lines for one in declared.group if one.name == "default") == ["default", "plus"]


def test_a_token_without_its_user_and_a_user_that_is_switched_off() -> None:
    found = take(users=[USER | {"status": 2}], tokens=[TOKEN | {"user_id": 99}])
    assert found.declared.account[0].disabled
    assert found.left_out == {"token /laptop": "its user is not there"}


def test_built_in_prices_are_said_not_to_be_there() -> None:
    found = take(options=[])
    assert not found.declared.price and "ratio_config" in found.left_out["prices"]
    assert found.declared.group[0].multiplier == "1"


def test_a_ratio_that_is_no_number_leaves_its_group_out() -> None:
    found = take(options=[{"key": "GroupRatio", "value": '{"vip": "cheap"}'}])
    assert found.left_out["group vip"] == "its ratio is no number"


def test_another_unit_of_quota() -> None:
    options = [*OPTIONS, {"key": "QuotaPerUnit", "value": "1000000"}]
    assert take(options=options).balances[0].amount == "1.234567000"


def test_a_sqlite_file_and_json_say_the_same(tmp_path: Path) -> None:
    tables = {"channels": [CHANNEL], "users": [USER], "tokens": [TOKEN], "options": OPTIONS}
    written = tmp_path / "tables.json"
    written.write_bytes(msgspec.json.encode(tables))
    database = write_sqlite(tmp_path / "one-api.db", tables)
    assert convert(read_tables(written), NOW) == convert(read_tables(database), NOW) == take()


def write_sqlite(path: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    """Return a database of these tables, with one deleted row in each of users and tokens."""
    database = sqlite3.connect(path)
    for name, rows in tables.items():
        columns = [*rows[0], "deleted_at"]
        database.execute(f"CREATE TABLE {name} ({', '.join(f'`{one}`' for one in columns)})")
        marks = ", ".join("?" for _ in columns)
        for row in rows:
            database.execute(f"INSERT INTO {name} VALUES ({marks})", [*row.values(), None])
        if name in ("users", "tokens"):
            gone = [*(rows[0] | {"id": 99}).values(), "2025-01-01"]
            database.execute(f"INSERT INTO {name} VALUES ({marks})", gone)
    database.commit()
    database.close()
    return path


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"SQLite format 3\x00 but no more", b"\xff"])
def test_what_is_no_such_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        read_tables(path)
    with pytest.raises(ConfigError):
        read_tables(tmp_path / "none")


def test_numbers_that_a_tool_wrote_as_text_are_numbers() -> None:
    """Not the same as none: what is switched off stays so, each channel has its own key."""
    tables = {"channels": [CHANNEL, CHANNEL | {"id": 2, "key": "sk-CANARY-2"}], "users": [USER]}
    tokens = [
        TOKEN | {"unlimited_quota": 0, "remain_quota": 500_000},
        TOKEN | {"id": 4, "status": 2},
    ]
    tables["tokens"] = tokens
    written = {
        name: [{key: str(value) for key, value in row.items()} for row in rows]
        for name, rows in tables.items()
    }
    found = take(**written)
    assert found == take(**tables)
    assert [key.quota for key in found.declared.key] == ["1"]
    assert found.environ["NEW_API_CHANNEL_2_1"] == "sk-CANARY-2"


@pytest.mark.parametrize("number", [1, 0, None, "x", 1.5, 10**30])
def test_a_row_without_an_id_of_its_own_is_left_out_by_name(number: Any) -> None:
    other = {"id": number, "key": "sk-CANARY-2", "name": "other"}
    found = take(channels=[CHANNEL, CHANNEL | other], users=[USER, USER | {"id": number or 7}])
    assert [channel.name for channel in found.declared.channel] == ["main"]
    assert found.environ["NEW_API_CHANNEL_1_1"] == "sk-CANARY-up"
    assert "channel in row 2" in found.left_out


@pytest.mark.parametrize("told", ['{"default": 2', '{"default": NaN}', "[2]", "x", '{"a": 1e999}'])
def test_ratios_that_cannot_be_read_are_not_taken_for_one(told: str) -> None:
    found = take(options=[{"key": "GroupRatio", "value": told}])
    assert not found.declared.group and not found.declared.account and not found.balances
    assert "GroupRatio cannot be read" in found.left_out["user alice"]


@pytest.mark.parametrize("told", ["0", "-1", "NaN", "Infinity", "x", "1e-30"])
def test_a_unit_of_quota_that_is_none_leaves_users_out(told: str) -> None:
    found = take(options=[*OPTIONS, {"key": "QuotaPerUnit", "value": told}])
    assert not found.balances and "QuotaPerUnit" in found.left_out["user alice"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"unlimited_quota": 0, "remain_quota": 10**30}, "remain_quota is no whole number"),
        ({"expired_time": 10**30}, "expired_time is no whole number"),
        ({"unlimited_quota": "maybe"}, "neither yes nor no"),
    ],
)
def test_absurd_numbers_of_a_token(changed: dict[str, Any], why: str) -> None:
    found = take(tokens=[TOKEN | changed])
    assert not found.declared.key and why in found.left_out["token alice/laptop"]


def test_a_group_with_an_absurd_ratio_takes_its_users_with_it() -> None:
    for told in ('{"default": true}', '{"default": 1e300}', '{"default": -1}'):
        found = take(options=[{"key": "GroupRatio", "value": told}])
        assert "group default" in found.left_out and "user alice" in found.left_out
        assert not found.declared.account
