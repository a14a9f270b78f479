"""Goal: with its secrets in systemd's credentials, every command works in a shell without them.

Method: a relay whose pepper, master key and database URL are `cred:`, in a folder that only it was
told of; then the commands of the README without that folder, as the same user, as root, and as
nobody. And the admin API does what the commands do, with credentials of its caller.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.embedded.embedded import Embedded
from relay.store.secrets import desk
from tests.live.host_rig import Host
from tests.live.relay_process import ask, send

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady"]
api_key = "{api_key}"
[[line]]
name = "town"
channels = ["mock"]
[[line]]
name = "guests"
channels = ["mock"]
by_invitation = true
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "1"
output = "2"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""
COMMANDS = (
    "channel list",
    "channel drain mock",
    "channel enable mock",
    "line list",
    "line grant --account folk guests",
    "account list",
    "key create --account folk --name by-hand",
    "key list",
    "key limit by-hand --rpm 100",
    "key disable by-hand",
    "key delete by-hand --yes",
    "recharge --account folk --amount 5 --order o-1",
    "balance --account folk",
    "credit --account folk --amount 1 --reason test --actor me",
    "ledger list --account folk",
    "order list",
    "code create --amount 1",
    "code list",
    "price list",
    "price import --starter --models gpt-4o-mini",
    "limits explain --key k --model steady",
    "user list",
    "logs",
    "usage",
    "audit",
    "config show --origin",
)


STRANGER = """
import os, socket
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(5)
try:
    sock.connect("{path}")
    sock.sendall(b'{{"reference":"cred:pepper"}}\\n')
    print(sock.recv(10).decode(), end="")
except OSError:
    pass
"""
REFUSED: tuple[tuple[str, dict[str, str], str], ...] = (
    ("file:/etc/hostname", {}, "give it in api_keys"),
    ("cred:pepper", {}, "give it in api_keys"),
    ("", {"nobody": "sk-x"}, "declares no channel 'nobody'"),
    ("", {"mock": "two\nlines"}, "one line"),
)
TOKEN = ("secrets", "admin.token")


@pytest.fixture
def folder(reachable: Path) -> Path:
    found = Path(tempfile.mkdtemp(prefix="desk-", dir=reachable))
    found.chmod(0o755)
    (found / "credentials").mkdir()
    return found


@pytest.fixture
async def host(
    folder: Path, empty_database_url: str, servers: Embedded, upstream: str
) -> AsyncIterator[Host]:
    credentials = folder / "credentials"
    found = {
        "pepper": secrets.token_hex(32),
        "master_key": secrets.token_hex(32),
        "database": empty_database_url,
        "upstream": "sk-upstream",
    }
    for name, value in found.items():
        (credentials / name).write_text(value)
    host = Host(folder / "host", None)
    host.environ |= {
        "RELAY_REDIS__URL": servers.redis_url,
        "RELAY_DATABASE__URL": "cred:database",
        "RELAY_SECRETS__PEPPER": "cred:pepper",
        "RELAY_SECRETS__MASTER_KEY": "cred:master_key",
    }
    # As a command has it that is begun by one about another relay:
    host.environ["RELAY_SECRETS_FROM"] = str(folder / "another")
    host.environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    await host.begin()
    del host.environ["CREDENTIALS_DIRECTORY"]
    try:
        await host.apply(CATALOG.format(upstream=upstream, api_key="cred:upstream"))
        yield host
    finally:
        await host.end()


async def test_every_command_works_in_a_shell_without_the_secrets(host: Host) -> None:
    await host.make_key("k")
    for command in COMMANDS:
        await host.cli(*command.split())
    assert "set" in await host.cli("channel", "list"), "the credential can be opened"

    # Only what the relay is configured with is given out, and to nobody else.
    assert len(desk.ask(host.data_dir, "cred:pepper")) == 64
    for reference in ("env:HOME", "file:/etc/hostname", "cred:nothing", "cred:..", "pepper"):
        assert desk.ask(host.data_dir, reference) == ""
    assert not os.geteuid() or desk.folder_of(host.data_dir).stat().st_uid == os.geteuid()
    if os.geteuid() == 0:
        assert await asyncio.to_thread(is_turned_away, desk.folder_of(host.data_dir))

    await host.stop()
    with pytest.raises(AssertionError, match="CREDENTIALS_DIRECTORY"):
        await host.cli("channel", "list")


def is_turned_away(folder: Path) -> bool:
    """Return whether another user gets no answer, though a careless chmod lets it in."""
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / desk.NAME).chmod(0o777)
    place = os.open(folder, os.O_PATH)
    program = STRANGER.format(path=f"/proc/self/fd/{place}/{desk.NAME}")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            pass_fds=[place],
            check=True,
            capture_output=True,
        )
    finally:
        os.close(place)
    return done.stdout == b""


async def test_the_admin_api_applies_a_catalog_with_credentials_that_come_along(
    host: Host, upstream: str
) -> None:
    catalog = CATALOG.format(upstream=upstream, api_key="").replace('"mock"', '"other"')
    body = {"catalog": catalog, "api_keys": {"other": "sk-other"}, "dry_run": True}
    planned = (await host.api("apply", body))["changes"]
    assert {"channel", "line"} <= {change["kind"] for change in planned}
    assert "other" not in await host.cli("channel", "list")
    assert (await host.api("apply", {**body, "dry_run": False}))["changes"] == planned
    assert (await host.api("apply", {**body, "dry_run": False}))["changes"] == []
    assert {row["name"] for row in (await host.api("lines"))["lines"]} == {"town", "guests"}
    assert [row["name"] for row in (await host.api("accounts"))["accounts"]] == ["folk"]
    assert [row["model"] for row in (await host.api("prices"))["prices"]] == ["steady"]
    granted = await host.api("lines/guests/grant", {"account": "folk"})
    assert granted == {"account": "folk", "line": "guests", "granted": True}
    (account,) = (await host.api("accounts"))["accounts"]
    assert account["granted_lines"] == ["guests"]
    key = await host.make_key("k")
    assert (await ask(host, key)).status == 200

    for api_key, api_keys, told in REFUSED:
        catalog = CATALOG.format(upstream=upstream, api_key=api_key)
        answer = await send(
            f"http://{host.admin}/admin/v1/apply",
            {"catalog": catalog, "api_keys": api_keys},
            {"Authorization": f"Bearer {host.data_dir.joinpath(*TOKEN).read_text().strip()}"},
        )
        assert answer.status == 400
        assert told in answer.error["message"]
        assert "sk-x" not in answer.body.decode()
