"""Goal: `relay config show` tells each setting's value and origin, and no secret.

Method: a file, the environment over it, and nothing, in one run; URLs with passwords and tokens.
"""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from relay.cli.host.config import HIDDEN, shown
from relay.cli.root import main
from relay.config import Config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "relay.toml"
    found.write_text(
        '[server]\nlisten = "127.0.0.1:9000"\nworkers = 3\n'
        '[database]\nurl = "postgresql://me:CANARY@db/relay?password=CANARY"\n'
        '[alerts]\nwebhook = "https://hooks.test/CANARY"\n'
        '[secrets]\npepper = "cred:pepper"\n'
    )
    return found


def show(file: Path | None, *words: str, environ: dict[str, str] | None = None) -> str:
    named = [] if file is None else ["--config", str(file)]
    result = CliRunner().invoke(main, ["config", "show", *words, *named], env=environ or {})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_setting_has_the_origin_that_won(file: Path) -> None:
    said = show(file, "--origin", "--json", environ={"RELAY_SERVER__WORKERS": "5"})
    rows = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(said)}
    assert rows["server.listen"] == ("127.0.0.1:9000", f"file {file}")
    assert rows["server.workers"] == (5, "env RELAY_SERVER__WORKERS")
    assert rows["server.admin"] == ("127.0.0.1:8081", "default")
    assert rows["secrets.pepper"] == ("cred:pepper", f"file {file}")
    sections = msgspec.structs.fields(Config)
    assert len(rows) == sum(len(msgspec.structs.fields(section.type)) for section in sections)


def test_no_password_and_no_token_is_shown(file: Path) -> None:
    assert "CANARY" in file.read_text()
    for words in ([], ["--origin"], ["--json"]):
        said = show(file, *words)
        assert "CANARY" not in said
        assert f"postgresql://me:{HIDDEN}@db/relay" in said
        assert f"https://hooks.test/{HIDDEN}" in said


def test_origin_is_told_only_where_it_is_asked_for(file: Path) -> None:
    assert set(json.loads(show(file, "--json"))[0]) == {"setting", "value"}
    assert "default" not in show(None)


def test_a_wrong_file_is_a_bad_configuration(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[server]\nlisen = 1\n")
    result = CliRunner().invoke(main, ["config", "show", "--config", str(file)])
    assert result.exit_code == 78
    assert "lisen" in result.stderr


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (7, 7),
        ("", ""),
        ("env:NAME", "env:NAME"),
        ("file:/etc/relay/url", "file:/etc/relay/url"),
        ("redis://:CANARY@host:6379/0", f"redis://:{HIDDEN}@host:6379/0"),
        (["redis://u:CANARY@a", "redis://b"], [f"redis://u:{HIDDEN}@a", "redis://b"]),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_what_is_shown_of_a_value(value: object, seen: object) -> None:
    assert shown(value) == seen
