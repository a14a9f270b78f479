"""Goal: amounts and counts on the command line mean what they look like, or are refused.

Method: notations that Python would accept and people misread, against the commands that take them.
"""

import pytest
from click.testing import CliRunner

from relay.cli.root import main
from relay.units import parse_multiplier, parse_usd

ODD = [
    "1_000",
    " 7",
    "7 ",
    "1e3",
    "1E3",
    "0x10",
    "\u0661\u0662",
    "\uff17",
    "1,000",
    "",
    "NaN",
    "Infinity",
    "--5",
]


@pytest.mark.parametrize("text", ODD)
def test_money_in_another_notation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        parse_usd(text)
    with pytest.raises(ValueError, match="not a multiplier"):
        parse_multiplier(text)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("1000", 10**12),
        ("0.5", 5 * 10**8),
        (".5", 5 * 10**8),
        ("5.", 5 * 10**9),
        ("-3", -3 * 10**9),
    ],
)
def test_plain_money_is_taken(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    "words",
    [
        ["recharge", "--account", "a", "--order", "1", "--amount", "1_000"],
        ["credit", "--account", "a", "--reason", "r", "--amount", "1_000"],
        ["code", "create", "--amount", "1_000"],
        ["code", "create", "--amount", "1", "--count", "1_0"],
        ["key", "create", "--account", "a", "--quota", "1_000"],
        ["key", "create", "--account", "a", "--tpm", "1_000"],
        ["key", "limit", "1", "--rpm", "1_000"],
        ["account", "set", "a", "--low-balance-alert", "1_000"],
        ["logs", "--limit", "1_000"],
        ["ledger", "list", "--account", "a", "--limit", "1_0"],
        ["order", "list", "--limit", "1_0"],
        ["serve", "--workers", "1_0"],
        ["mock", "--chunks", "1_0"],
    ],
    ids=" ".join,
)
def test_every_command_asks_back_before_it_does_anything(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert "1_0" in result.stderr
