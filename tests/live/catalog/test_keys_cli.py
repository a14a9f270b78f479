"""Goal: the catalog's commands do what the contract says: output, exit codes, nothing leaked.

Method: the click commands in process against a real Postgres, named by RELAY_DATABASE__URL; an
upstream of our own for `channel test`; a child process for what only the console script shows.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli.root import main
from relay.wire.api_keys import is_well_formed

CATALOG = """
[[channel]]
name = "a"
base_url = "{url}"
api_key = "env:A_KEY"
models = ["m", "fast=m-1"]
[[line]]
name = "l"
channels = ["a"]
[[group]]
name = "g"
lines = ["l"]
[[account]]
name = "acme"
group = "g"
[[account]]
name = "bolt"
group = "g"
"""

Command = Callable[..., Result]


class Upstream(BaseHTTPRequestHandler):
    """Lists one model to whoever has the right key; redirects and refuses on request."""

    def do_GET(self) -> None:
        """Answer GET /v1/models."""
        known = self.headers["authorization"] == "Bearer sk-CANARY"
        status = 200 if known and self.path == "/v1/models" else 401
        body = b'{"object": "list", "data": [{"id": "m"}]}' if status == 200 else b"sk-CANARY"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture
def upstream() -> Iterator[str]:
    """Base URL of a scripted upstream."""
    server = HTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def relay(database_url: str, tmp_path: Path) -> Command:
    """Run a relay command on a database of its own; exceptions that are not ours come through."""
    environ = {
        "RELAY_DATABASE__URL": database_url,
        "RELAY_DATA_DIR": str(tmp_path),
        "A_KEY": "sk-CANARY",
    }

    def command(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
        result = CliRunner().invoke(
            main, arguments, env=environ, input=answer, catch_exceptions=False
        )
        assert result.exit_code == code, result.output
        assert "CANARY" not in result.output
        assert "Traceback" not in result.output
        return result

    return command


@pytest.fixture
def applied(relay: Command, upstream: str, tmp_path: Path) -> Path:
    """A catalog file that has been applied."""
    file = tmp_path / "catalog.toml"
    file.write_text(CATALOG.format(url=upstream))
    relay("apply", str(file))
    return file


def rows(result: Result) -> Any:
    return json.loads(result.stdout)


def test_apply_shows_its_changes(relay: Command, upstream: str, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(CATALOG.format(url=upstream))
    dry = relay("apply", str(file), "--dry-run")
    assert dry.stdout.splitlines() == [
        "+ channel a",
        "+ line l",
        "+ group g",
        "+ account acme",
        "+ account bolt",
    ]
    assert relay("apply", str(file)).stdout == dry.stdout
    assert relay("apply", str(file)).stdout == "no changes\n"
    file.write_text(file.read_text().replace('lines = ["l"]', 'multiplier = "0.5"\nlines = ["l"]'))
    assert relay("apply", str(file)).stdout.splitlines() == [
        "~ group g",
        "    multiplier: 1 -> 0.5",
    ]
    assert rows(relay("apply", str(file), "--json")) == []


def test_apply_of_a_wrong_file(relay: Command, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text('[[channel]]\nname = "a"\nbase_url = "http://a"\nmodels = ["m"]\nkey = 1')
    wrong = relay("apply", str(file), code=78)
    assert (
        wrong.stderr == f"relay: {file}: Object contains unknown field `key` - at `$.channel[0]`\n"
    )
    assert wrong.stdout == ""
    relay("apply", str(tmp_path / "none.toml"), code=78)
    relay("apply", code=2)


def test_key_life(relay: Command, applied: Path) -> None:
    made = rows(relay("key", "create", "--account", "acme", "--name", "ci", "--json"))
    assert set(made) == {"id", "key"}
    assert is_well_formed(made["key"])
    (shown,) = rows(relay("key", "list", "--json"))
    assert (shown["id"], shown["account"], shown["name"]) == (made["id"], "acme", "ci")
    assert (shown["last4"], shown["disabled"]) == (made["key"][-4:], False)
    assert made["key"] not in json.dumps(shown)
    relay("key", "disable", "ci")
    assert rows(relay("key", "list", "--json"))[0]["disabled"]
    relay("key", "enable", made["key"][-4:])
    assert not rows(relay("key", "list", "--json"))[0]["disabled"]
    # An id is told as one: a bare number would be a name, of whosever key.
    assert "there is no key" in relay("key", "delete", str(made["id"]), "--yes", code=1).stderr
    named = f"id:{made['id']}"
    assert relay("key", "delete", named, answer="n\n", code=1).stdout == ""
    relay("key", "delete", named, "--yes")
    assert rows(relay("key", "list", "--json")) == []
    assert "there is no key 'ci'" in relay("key", "disable", "ci", code=1).stderr


def test_key_terms(relay: Command, applied: Path) -> None:
    made = relay(
        "key", "create", "--account", "acme", "--expires", "30d", "--models", "m, fast",
        "--allow-ip", "10.0.0.0/8", "--allow-ip", "::1", "--quota", "2.50",
    )  # fmt: skip
    assert is_well_formed(made.stdout.strip())
    assert "shown this once" in made.stderr
    (shown,) = rows(relay("key", "list", "--account", "acme", "--json"))
    assert shown["models"] == ["fast", "m"]
    assert shown["networks"] == ["10.0.0.0/8", "::1/128"]
    assert (shown["quota_usd"], shown["spent_usd"]) == ("2.5", "0")
    assert shown["expires_at"] > shown["created_at"]
    table = relay("key", "list").stdout
    assert "fast, m" in table
    assert made.stdout.strip() not in table


def test_what_names_nothing_or_too_much(relay: Command, applied: Path) -> None:
    assert "'none'" in relay("key", "create", "--account", "none", code=1).stderr
    for account in ("acme", "bolt"):
        relay("key", "create", "--account", account, "--name", "ci")
    assert (
        "named 'ci'" in relay("key", "create", "--account", "acme", "--name", "ci", code=1).stderr
    )
    assert "bolt/ci" in relay("key", "disable", "ci", code=1).stderr
    relay("key", "disable", "bolt/ci")
    disabled = {row["account"]: row["disabled"] for row in rows(relay("key", "list", "--json"))}
    assert disabled == {"acme": False, "bolt": True}
    assert "'zz'" in relay("channel", "drain", "zz", code=1).stderr
    assert "'zz'" in relay("channel", "test", "zz", code=1).stderr
    assert "'zz'" in relay("account", "show", "zz", code=1).stderr


def test_channels(relay: Command, applied: Path) -> None:
    (shown,) = rows(relay("channel", "list", "--json"))
    assert (shown["name"], shown["api_key"], shown["drained"]) == ("a", "set", False)
    assert shown["models"] == {"m": "m", "fast": "m-1"}
    relay("channel", "drain", "a")
    assert rows(relay("channel", "list", "--json"))[0]["drained"]
    relay("channel", "enable", "a")
    assert not rows(relay("channel", "list", "--json"))[0]["drained"]
    assert "fast=m-1" in relay("channel", "list").stdout


def test_channel_test(relay: Command, applied: Path) -> None:
    found = rows(relay("channel", "test", "a", "--json"))
    assert (found["ok"], found["status"], found["missing"]) == (True, 200, ["m-1"])
    applied.write_text(applied.read_text().replace("env:A_KEY", "env:HOME"))
    relay("apply", str(applied))
    refused = relay("channel", "test", "a", code=1).stdout
    assert "the credential is not accepted" in refused


def test_channel_of_another_master_key(relay: Command, applied: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "master.key").write_text("ab" * 32)
    assert rows(relay("channel", "list", "--json"))[0]["api_key"] == "unreadable"
    assert "apply it again" in relay("channel", "test", "a", code=78).stderr
    assert relay("apply", str(applied)).stdout.startswith("~ channel a\n")
    assert rows(relay("channel", "list", "--json"))[0]["api_key"] == "set"


def test_lines_and_accounts(relay: Command, applied: Path) -> None:
    (line,) = rows(relay("line", "list", "--json"))
    assert (line["name"], line["channels"], line["tpm"]) == ("l", ["a"], 0)
    assert "standard" in relay("line", "list").stdout
    relay("key", "create", "--account", "acme", "--name", "ci")
    accounts = rows(relay("account", "list", "--json"))
    assert [(row["name"], row["keys"]) for row in accounts] == [("acme", 1), ("bolt", 0)]
    assert "acme" in relay("account", "list").stdout
    shown = rows(relay("account", "show", "acme", "--json"))
    assert (shown["group"], shown["lines"], shown["keys"][0]["name"]) == ("g", ["l"], "ci")
    assert "ci" in relay("account", "show", "acme").stdout


def test_database_without_a_schema(empty_database_url: str, tmp_path: Path) -> None:
    environ = {"RELAY_DATABASE__URL": empty_database_url, "RELAY_DATA_DIR": str(tmp_path)}
    result = CliRunner().invoke(main, ["line", "list"], env=environ)
    assert result.exit_code == 78
    assert "relay apply" in result.stderr


def test_database_down(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["line", "list", "--data-dir", str(tmp_path)])
    assert result.exit_code == 69
    assert result.stderr.startswith("relay: start `relay serve` first")


def test_console_script() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "relay", "-V"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("relay 0.")


def test_a_key_has_lines_of_its_own(relay: Command, applied: Path) -> None:
    applied.write_text(
        applied.read_text()
        + '[[line]]\nname = "vip"\nchannels = ["a"]\nby_invitation = true\n'
        + '[[key]]\naccount = "acme"\nname = "ci"\nkey = "env:A_KEY"\nlines = ["vip", "l"]\n'
    )
    assert "+ line vip" in relay("apply", str(applied)).stdout
    assert relay("apply", str(applied)).stdout == "no changes\n"
    made = relay("key", "create", "--account", "acme", "--name", "k", "--line", "l", "--json")
    relay("key", "create", "--account", "acme", "--line", "none", code=1)
    shown = {row["name"]: row["lines"] for row in rows(relay("key", "list", "--json"))}
    assert shown == {"ci": ["vip", "l"], "k": ["l"]} and "key" in rows(made)
    applied.write_text(applied.read_text().replace('["vip", "l"]', '["l", "vip"]'))
    assert "lines: vip, l -> l, vip" in relay("apply", str(applied)).stdout
    assert relay("apply", str(applied)).stdout == "no changes\n"


def test_a_line_by_invitation_is_granted_and_revoked(relay: Command, applied: Path) -> None:
    def granted() -> list[str]:
        [row] = [r for r in rows(relay("account", "list", "--json")) if r["name"] == "acme"]
        found: list[str] = row["granted_lines"]
        return found

    for _ in range(2):
        relay("line", "grant", "--account", "acme", "l")
        assert granted() == ["l"]
    assert relay("apply", str(applied)).stdout == "no changes\n" and granted() == ["l"]
    relay("line", "revoke", "--account", "acme", "l")
    assert granted() == []
    for account, line, what in (("none", "l", "account"), ("acme", "none", "line")):
        refused = relay("line", "grant", "--account", account, line, code=1)
        assert f"there is no {what} 'none'" in refused.output
