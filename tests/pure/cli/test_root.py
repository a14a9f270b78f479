"""Goal: the root command finds, locates and fails as the contract says.

Method: the table of commands against their modules; location options before and after the name;
each kind of error raised by a command of the test's own; `relay check` on files of both kinds.
"""

import datetime
import functools
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from relay.cli.customers.keys import parse_expiry
from relay.cli.output import print_fields, print_rows
from relay.cli.root import (
    COMMANDS,
    RootGroup,
    data_dir,
    exit_code,
    load_context,
    location_options,
    main,
)
from relay.errors import BadRequest, ConfigError, DependencyDown, NotFound, RelayError
from relay.outside import find_missing

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@click.command()
@location_options
@click.pass_context
def where(ctx: click.Context) -> None:
    """Tell the location a command works with."""
    config, folder = load_context(ctx)
    assert folder == data_dir(ctx)
    click.echo(f"{folder} {config.limits.dedicated_tpm}")


class Rooted(RootGroup):
    """The root group with the test's own command in it."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return `where` under its name."""
        return where if cmd_name == "where" else super().get_command(ctx, cmd_name)


ROOT = Rooted(params=main.params)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["where"], "var 30000000"),
        (["--data-dir", "d", "where"], "d 30000000"),
        (["where", "--data-dir", "d"], "d 30000000"),
        (["--data-dir", "c", "where", "--data-dir", "d"], "d 30000000"),
        (["--config", "FILE", "where"], "var 7"),
        (["where", "--config", "FILE"], "var 7"),
    ],
)
def test_location_before_and_after(tmp_path: Path, arguments: list[str], found: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[limits]\ndedicated_tpm = 7\n")
    arguments = [str(file) if part == "FILE" else part for part in arguments]
    assert CliRunner().invoke(ROOT, arguments).output == found + "\n"
    environ = {"RELAY_CONFIG": str(file), "RELAY_DATA_DIR": "e"}
    assert CliRunner().invoke(ROOT, ["where"], env=environ).output == "e 7\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 78),
        (DependencyDown("x"), 69),
        (NotFound("x"), 1),
        (BadRequest("x"), 1),
        (RelayError("x"), 1),
    ],
)
def test_errors_are_one_line_and_a_code(error: RelayError, code: int) -> None:
    @click.command()
    def fail() -> None:
        raise error

    class Failing(RootGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            return fail

    result = CliRunner().invoke(Failing(), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, "relay: x\n", "")
    assert exit_code(error) == code


def test_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["chanel"]).exit_code == 2


def test_every_command_of_the_table_is_there() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.hidden or f"\n  {name} " in shown.stdout


def test_command_is_imported_when_called() -> None:
    """`relay check` must not pay for the web server, nor `relay mock` for the database."""
    code = (
        "import sys; from relay.cli.root import main; loaded = set(sys.modules); "
        "assert not loaded & {'aiohttp', 'asyncpg', 'relay.cli.supply.catalog'}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version() -> None:
    assert CliRunner().invoke(main, ["-V"]).stdout.startswith("relay 0.")


def test_check_tells_the_kinds_of_file_apart(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[[group]]\nname = "g"\n')
    config = tmp_path / "relay.toml"
    config.write_text("[server]\nworkers = 2\n")
    ok = CliRunner().invoke(main, ["check", str(catalog)])
    assert (ok.exit_code, "1 group" in ok.stdout) == (0, True)
    ok = CliRunner().invoke(main, ["check", str(config)])
    assert (ok.exit_code, "a configuration" in ok.stdout) == (0, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nworkrs = 2", "workrs"),
        ("[[group]]\nname = 1", "$.group[0].name"),
        ("nonsense", "Expected"),
    ],
)
def test_check_refuses_with_78(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 78
    assert str(file) in result.stderr
    assert says in result.stderr


def test_check_refuses_what_needs_a_package_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[maintenance]\narchive_dir = "archive"\narchive_format = "parquet"\n')
    assert CliRunner().invoke(main, ["check", str(file)]).exit_code == 0
    without = functools.partial(find_missing, find=lambda name: None)
    monkeypatch.setattr("relay.cli.supply.catalog.find_missing", without)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 78
    said = "maintenance.archive_format needs pyarrow: pip install 'relay[parquet]'"
    assert f"{file}: {said}" in result.stderr


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", "2026-01-31T00:00:00+00:00"),
        ("12h", "2026-01-01T12:00:00+00:00"),
        ("90s", "2026-01-01T00:01:30+00:00"),
        ("2026-02-01", "2026-02-01T00:00:00+00:00"),
        ("2026-02-01T00:00:00+01:00", "2026-01-31T23:00:00+00:00"),
    ],
)
def test_expiry(text: str, moment: str) -> None:
    assert parse_expiry(text, NOW).isoformat() == moment


@pytest.mark.parametrize("text", ["", "0d", "30", "d", "2025-12-31", "tomorrow", "9999999d"])
def test_wrong_expiry(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a span|in the past"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--expires", "yesterday"),
        ("--expires", "2001-01-01"),
        ("--models", ","),
        ("--allow-ip", "10.0.0.1/8"),
        ("--quota", "-1"),
        ("--quota", "lots"),
    ],
)
def test_wrong_terms_of_a_key_are_a_usage_error(option: str, value: str) -> None:
    result = CliRunner().invoke(main, ["key", "create", "--account", "acme", option, value])
    assert result.exit_code == 2
    assert option in result.stderr


def test_rows_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"a_b": None, "c": True, "d": ["x", "y"], "e": {"m": "m", "f": "g"}, "t": NOW, "n": 0}
    print_rows([row], ["a_b", "c", "d", "e", "t", "n"], as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "a b  c    d     e       t                     n",
        "-    yes  x, y  m, f=g  2026-01-01 00:00:00Z  0",
    ]
    print_rows([], ["a_b", "c"], as_json=False)
    assert capsys.readouterr().out == "a b  c\n"
    print_rows([row], [], as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["t"] == "2026-01-01T00:00:00Z"
    print_fields({"name": "x", "ok": False}, as_json=False)
    assert capsys.readouterr().out == "name  x\nok    no\n"
