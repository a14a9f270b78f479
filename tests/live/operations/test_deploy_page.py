"""Goal: deploy/README.md, followed word by word, ends with a served call.

Method: its own commands, run by a shell below a root of their own. install.sh is the real one, and
the service runs as the installed unit says, its sockets handed over by systemd-socket-activate, its
READY=1 heard by a socket of ours. Stand-ins: apt, git, and the superuser's Postgres commands; the
provider is a mock; systemctl starts what the unit names. The slow one also builds the release.
"""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.deploy.programs import needs
from tests.live.relay_process import all_gone, family

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "deploy" / "README.md").read_text("utf-8")
NOTHING = "#!/bin/sh\n"
SYSTEMCTL = """#!/bin/sh
# Starts the service as its unit says, with sockets handed over as relay.socket's would be.
echo "$*" >> {log}
case "$*" in
"restart relay.service")
    unit={root}/etc/systemd/system/relay.service
    sed -n 's/^Environment=RELAY_/RELAY_/p' "$unit" > {root}/environment
    program=$(sed -n 's/^ExecStart=//p' "$unit")
    set -- -E "NOTIFY_SOCKET={root}/notify"
    while read -r variable; do
        set -- "$@" -E "${{variable%%=*}}={root}${{variable#*=}}"
    done < {root}/environment
    # shellcheck disable=SC2086
    setsid systemd-socket-activate -l 127.0.0.1:{port} -l 127.0.0.1:{admin} \\
        --fdname=relay:admin "$@" {root}$program > {root}/words 2>&1 < /dev/null &
    echo $! > {root}/pid
    ;;
esac
"""


def commands(section: str) -> list[str]:
    """Return the shell blocks of a section of the page, in order."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert text, section
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Host:
    """A root, programs that stand in, and a page that speaks of them."""

    def __init__(self, folder: Path, upstream: str, database_url: str, redis_url: str) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.port, self.admin = free_port(), free_port()
        self.log = folder / "systemctl.log"
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._checkout = folder / "src"
        self._checkout.mkdir()
        (self._checkout / "relay").symlink_to(ROOT)
        (self._checkout / "relay.key").write_text("sk-x")
        systemctl = SYSTEMCTL.format(log=self.log, root=self.root, port=self.port, admin=self.admin)
        for name, text in (
            *((name, NOTHING) for name in ("apt", "git", "runuser")),
            ("systemctl", systemctl),
            ("relay", f'#!/bin/sh\nexec {self.root}/opt/relay/current/bin/relay "$@"\n'),
        ):
            self._put(self._programs / name, text)
        self._words = {
            "https://api.openai.com/v1": upstream,
            "postgresql://relay@/relay?host=/run/postgresql": database_url.replace("&", r"\&"),
            "redis://127.0.0.1:6379/0": redis_url,
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self.port}",
            "/etc/relay": f"{self.root}/etc/relay",
            "/var/lib/relay": f"{self.root}/var/lib/relay",
            "cat openai.key": "echo sk-x",
            "deploy/install.sh": f"deploy/install.sh --root {self.root}",
        }

    def _put(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def have_release(self, name: str) -> None:
        """Put a release there that is the code under test: building one takes minutes."""
        place = self.root / "opt/relay/releases" / name
        for program in ("relay", "python"):
            path = Path(sys.executable).with_name(program)
            self._put(place / "bin" / program, f'#!/bin/sh\nexec {path} "$@"\n')
        (place / ".complete").touch()
        self._words["deploy/install.sh"] += f" --release {name}"

    async def follow(self, *blocks: str) -> str:
        """Run blocks of the page in one shell; return what they printed."""
        script = "set -eu\n" + "\n".join(blocks)
        for word, ours in self._words.items():
            script = script.replace(word, ours)
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("RELAY_")
        }
        environ |= {
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "RELAY_CONFIG": f"{self.root}/etc/relay/relay.toml",
            "RELAY_DATA_DIR": f"{self.root}/var/lib/relay",
            "RELAY_INSTALL_START": "1",
            "RELAY_READY_URL": f"http://127.0.0.1:{self.admin}/readyz",
            "TMPDIR": str(self.root.parent),
        }
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=self._checkout,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, said = await shell.communicate()
        assert shell.returncode == 0, f"{said.decode()}\n{self.words()}"
        return printed.decode()

    def words(self) -> str:
        """Return what the service has said."""
        file = self.root / "words"
        return file.read_text() if file.exists() else ""

    async def end(self) -> None:
        """End the service that the page started."""
        file = self.root / "pid"
        if file.exists():
            pid = int(file.read_text())
            members = family(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            await all_gone(members, 20.0)


@pytest.fixture
def notices() -> Iterator[socket.socket]:
    """What hears the service say READY=1, as systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        yield heard


async def follow_the_page(host: Host, notices: socket.socket) -> None:
    notices.bind(str(host.root / "notify"))
    notices.settimeout(0)
    blocks = commands("From nothing to a served call")
    assert len(blocks) == 6
    try:
        printed = await host.follow(*blocks)
        assert '"choices"' in printed, printed
        assert "gpt-4o-mini" in printed.partition('"choices"')[2], "and it is in the log"
        heard = []
        with suppress(BlockingIOError):
            while True:
                heard.append(notices.recv(4096).decode())
        assert "READY=1" in heard
        assert any(note.startswith("STATUS=") for note in heard)
        told = json.loads(await host.follow("relay doctor --json || true"))
        ours = {"postgres latency", "redis latency", "schema", "pepper", "master key", "secrets"}
        assert {one["check"]: one["ok"] for one in told if one["check"] in ours} == dict.fromkeys(
            ours, True
        )
        secrets = host.root / "var/lib/relay/secrets"
        assert not any(stat.S_IMODE(file.stat().st_mode) & 0o077 for file in secrets.iterdir())
    finally:
        await host.end()
    assert "enable --quiet relay.service relay.socket relay-admin.socket" in host.log.read_text()


@needs("systemd-socket-activate", "curl", "bash")
async def test_the_page_ends_with_a_served_call(
    tmp_path: Path,
    notices: socket.socket,
    upstream: str,
    empty_database_url: str,
    redis_url: str,
) -> None:
    host = Host(tmp_path, upstream, empty_database_url, redis_url)
    host.have_release("here")
    await follow_the_page(host, notices)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs("systemd-socket-activate", "curl", "bash", "gcc")
async def test_the_page_with_a_release_built_from_the_lock(
    tmp_path: Path,
    notices: socket.socket,
    upstream: str,
    empty_database_url: str,
    redis_url: str,
) -> None:
    host = Host(tmp_path, upstream, empty_database_url, redis_url)
    await follow_the_page(host, notices)
    assert ", compiled (" in await host.follow("relay --version")


def test_every_file_that_the_page_names_is_there() -> None:
    for name in re.findall(r"deploy/[\w./*-]+\w/?", PAGE):
        assert list(ROOT.glob(name)), name
