"""Goal: the money commands credit once, show exact amounts and exit as the contract says.

Method: the click commands in process against a real Postgres, named by RELAY_DATABASE__URL.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from relay.cli.customers import money
from relay.cli.customers.accounts import account
from relay.cli.customers.codes import code
from relay.cli.customers.orders import order
from relay.cli.supply.catalog import apply
from relay.errors import BadRequest, ConfigError, Conflict, NotFound
from relay.store import postgres
from relay.store.billing import ledger

pytestmark = pytest.mark.live

Command = Callable[..., Result]


async def execute(url: str, statement: str) -> None:
    """Run one statement as the owner of the database, past its triggers."""
    connection = await postgres.connect(url)
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(statement)
    await connection.close()


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URL of a database with one account, `acme`; commands find it by the environment."""

    async def prepare() -> None:
        connection = await postgres.connect(database_url)
        await connection.execute(
            """WITH made AS (INSERT INTO groups (name) VALUES ('g') RETURNING id)
            INSERT INTO accounts (name, group_id, credit_limit_nanos)
            SELECT 'acme', id, 1500000000 FROM made"""
        )
        await connection.close()

    asyncio.run(prepare())
    monkeypatch.setenv("RELAY_DATABASE__URL", database_url)
    monkeypatch.chdir(tmp_path)
    return database_url


def run(command: click.Command, *arguments: str, code: int = 0) -> Any:
    """Run a command with --json; return what it printed."""
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code != 2 else result.stderr


def test_an_order_is_credited_once(database: str) -> None:
    paid = ("--account", "acme", "--amount", "100.50", "--order", "A-1")
    assert run(money.recharge, *paid) == {
        "order": "A-1",
        "credited": True,
        "paid_usd": "100.5",
        "bonus_usd": "0",
        "account": "acme",
        "balance_usd": "100.5",
        "held_usd": "0",
        "credit_limit_usd": "1.5",
        "free_usd": "102",
    }
    again = run(money.recharge, *paid)
    assert (again["credited"], again["balance_usd"]) == (False, "100.5")
    assert run(money.balance, "--account", "acme")["balance_usd"] == "100.5"
    with pytest.raises(Conflict):
        run(money.recharge, *paid[:3], "99", *paid[4:])


def test_people_are_told_about_a_duplicate(database: str) -> None:
    paid = ["--account", "acme", "--amount", "1", "--order", "A-1"]
    CliRunner().invoke(money.recharge, paid)
    again = CliRunner().invoke(money.recharge, paid)
    assert "credited before" in again.stderr
    assert "balance usd" in again.stdout


def test_cny_and_bonus_come_from_the_configuration(database: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[billing]\ncny_per_usd = "7"\nbonus = { "50" = "0.01", "100" = "0.05" }\n')
    paid = ("--account", "acme", "--currency", "CNY", "--config", str(file))
    credited = run(money.recharge, *paid, "--amount", "700", "--order", "A-1")
    assert (credited["paid_usd"], credited["bonus_usd"]) == ("100", "5")
    file.write_text('[billing]\ncny_per_usd = "0"\n')
    with pytest.raises(ConfigError, match="cny_per_usd"):
        run(money.recharge, *paid, "--amount", "700", "--order", "A-2")
    file.write_text('[billing]\nbonus = { "many" = "1" }\n')
    with pytest.raises(ConfigError, match=r"billing\.bonus"):
        run(money.recharge, *paid, "--amount", "700", "--order", "A-2")


@pytest.mark.parametrize("amount", ["0", "-1", "ten", "NaN", "0.0000000001"])
def test_an_impossible_amount_is_a_usage_error(database: str, amount: str) -> None:
    paid = ("--account", "acme", f"--amount={amount}", "--order", "A-1")
    assert "--amount" in run(money.recharge, *paid, code=2)


def test_an_empty_order_number_is_a_usage_error(database: str) -> None:
    paid = ("--account", "acme", "--amount", "1", "--order", " ")
    assert "--order" in run(money.recharge, *paid, code=2)


def test_an_unknown_account_is_named(database: str) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        run(money.balance, "--account", "nobody")


def test_audit_exits_with_1_where_there_is_drift(database: str) -> None:
    run(money.recharge, "--account", "acme", "--amount", "1", "--order", "A-1")
    clean = {"accounts": 1, "transfers": 1, "charges": 0, "drifts": []}
    assert run(money.audit) == clean
    assert "no drift" in CliRunner().invoke(money.audit).stdout
    forged = f"UPDATE balances SET balance_nanos = 5 WHERE account_id <> {ledger.CASH}"
    asyncio.run(execute(database, f"{forged} AND account_id > 0"))
    (drift,) = run(money.audit, code=1)["drifts"]
    assert (drift["expected_nanos"], drift["found_nanos"]) == (1_000_000_000, 5)
    told = CliRunner().invoke(money.audit).stdout
    assert "DRIFT" in told
    assert "$1 expected, $0.000000005 found" in told


def test_credit_by_hand_needs_who_and_why(database: str) -> None:
    mine = ("--account", "acme", "--reason", "outage of monday", "--actor", "ann")
    credited = run(money.credit, *mine, "--amount", "5", "--ref", "T-1")
    assert (credited["booked"], credited["balance_usd"]) == (True, "5")
    again = run(money.credit, *mine, "--amount", "5", "--ref", "T-1")
    assert (again["booked"], again["balance_usd"]) == (False, "5")
    assert run(money.credit, *mine, "--amount", "-7.5")["balance_usd"] == "-2.5"
    assert run(money.credit, *mine, "--amount", "+0.5")["balance_usd"] == "-2"
    for wrong in (("--amount", "0"), ("--amount", "x"), ("--amount", "1", "--reason", " ")):
        assert run(money.credit, *mine, *wrong, code=2)
    newest, *_, first = run(money.ledger, "list", "--account", "acme")
    assert (newest["amount_usd"], newest["balance_usd"]) == ("0.5", "-2")
    assert (first["actor"], first["reason"], first["ref"]) == ("ann", "outage of monday", "T-1")
    assert (
        "outage of monday" in CliRunner().invoke(money.ledger, ["list", "--account", "acme"]).stdout
    )


def test_orders_are_opened_and_listed(database: str) -> None:
    opened = ("--account", "acme", "--amount", "10", "--order", "A-1")
    assert run(order, "open", *opened) == {"order": "A-1", "status": "pending"}
    assert run(order, "list", "--status", "paid") == []
    run(money.recharge, *opened)
    (row,) = run(order, "list", "--account", "acme")
    assert (row["order"], row["status"], row["paid_usd"]) == ("A-1", "credited", "10")
    assert run(order, "open", *opened)["status"] == "credited"
    assert "A-1" in CliRunner().invoke(order, ["list"]).stdout


def test_codes_are_made_and_redeemed(database: str) -> None:
    made = run(code, "create", "--amount", "2", "--count", "2", "--expires", "30d")
    first, second = (row["code"] for row in made)
    assert run(code, "redeem", first, "--account", "acme")["balance_usd"] == "2"
    piped = CliRunner().invoke(code, ["redeem", "--account", "acme"], input=f"{second}\n")
    assert piped.exit_code == 0, piped.output
    with pytest.raises(BadRequest, match="unknown, used or expired"):
        run(code, "redeem", first, "--account", "acme")
    listed = run(code, "list")
    assert [row["account"] for row in listed] == ["acme", "acme"]
    assert first not in str(listed)
    told = CliRunner().invoke(code, ["create", "--amount", "1"])
    assert told.stdout.count("-") == 5
    for wrong in (("--amount", "0"), ("--amount", "1", "--expires", "never")):
        assert run(code, "create", *wrong, code=2)


def test_an_account_is_watched_below_a_balance(database: str) -> None:
    watched = run(account, "set", "acme", "--low-balance-alert", "5")
    assert watched["low_balance_alert_usd"] == "5"
    shown = run(account, "show", "acme")
    assert (shown["low_balance_alert_usd"], shown["promoted"]) == ("5", None)
    unwatched = run(account, "set", "acme", "--low-balance-alert", "none")
    assert unwatched["low_balance_alert_usd"] is None
    assert "--low-balance-alert" in run(account, "set", "acme", "--low-balance-alert", "x", code=2)


def test_a_catalog_file_says_below_which_balance(database: str, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    declared = '[[account]]\nname = "acme"\ngroup = "g"\ncredit_limit = "1.5"\n'
    for line, shown in (('low_balance_alert = "5.00"', "5"), ("", None)):
        file.write_text(f"{declared}{line}\n")
        (change,) = run(apply, str(file))
        assert set(change["fields"]) == {"low_balance_alert"}
        assert run(apply, str(file)) == []
        assert run(account, "show", "acme")["low_balance_alert_usd"] == shown


def test_a_recharge_that_earns_it_says_so(database: str, tmp_path: Path) -> None:
    asyncio.run(execute(database, "INSERT INTO groups (name, generation) VALUES ('e', 1)"))
    file = tmp_path / "relay.toml"
    file.write_text('[billing]\nenterprise_group = "e"\nenterprise_cny = "720"\n')
    paid = ("--account", "acme", "--amount", "100", "--order", "A-1", "--config", str(file))
    assert run(money.recharge, *paid)["promoted_to"] == "e"
    shown = run(account, "show", "acme")
    assert (shown["group"], shown["promoted"]["reason"]) == ("e", "recharged 720 CNY in all")
