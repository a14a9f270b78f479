"""Goal: the units are sound, hardened, and do what an outage needs of them.

Method: systemd's own verification in a root of our own that has what the units name; its security
score; each setting that a fault taught, with its value; the real proxies' checks of the examples.
"""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from relay.config import Config
from relay.process.listeners import take_inherited
from tests.deploy.programs import find, fresh, needs

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = ("relay.service", "relay.socket", "relay-admin.socket", "relay-refuse.service")
SOCKETS = UNITS[1:3]


def settings(unit: str) -> dict[str, list[str]]:
    """Return name -> values of a unit's settings, in order."""
    found = defaultdict(list)
    for line in (DEPLOY / unit).read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the units and what they name, as install.sh would leave it."""
    root = tmp_path / "root"
    folder = fresh(root / "etc/systemd/system")
    for unit in UNITS:
        (folder / unit).write_text((DEPLOY / unit).read_text("utf-8"))
    for program in ("opt/relay/current/bin/relay", "bin/kill", "bin/systemctl"):
        file = root / program
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    (root / "opt/relay/current/README.md").touch()
    vendor = fresh(root / "usr/lib/systemd/system")
    for target in ("sysinit", "basic", "shutdown", "sockets", "network-online", "multi-user"):
        (vendor / f"{target}.target").write_text("[Unit]\nDescription=x\n")
    for slice_ in ("system.slice", "-.slice"):
        (vendor / slice_).write_text("[Unit]\nDescription=x\n")
    return root


@needs("systemd-analyze")
def test_systemd_finds_nothing_to_say(root: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *UNITS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "relay" in line]
    assert (done.returncode, ours) == (0, [])


@needs("systemd-analyze")
def test_a_unit_with_a_fault_is_found(root: Path) -> None:
    file = root / "etc/systemd/system/relay.service"
    file.write_text(file.read_text().replace("KillMode=mixed", "KillMode=sometimes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *UNITS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "kill mode" in done.stderr


@needs("systemd-analyze")
def test_the_exposure_is_at_most_1_5() -> None:
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--threshold=15"),
            str(DEPLOY / "relay.service"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:]
    found = re.search(r"Overall exposure level for relay.service: ([0-9.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= 1.5


def test_a_configuration_that_cannot_work_fails_at_once() -> None:
    """RestartPreventExitStatus= counts the exit of ExecStart= alone, so nothing checks before."""
    unit = settings("relay.service")
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert unit["ExecStartPre"] == []
    assert unit["ExecStart"] == ["/opt/relay/current/bin/relay serve"]
    assert unit["OnFailure"] == ["relay-refuse.service"]
    assert settings("relay-refuse.service")["ExecStart"] == [
        f"/bin/systemctl stop {' '.join(SOCKETS)}"
    ]
    for socket in SOCKETS:
        assert settings(socket)["TriggerLimitIntervalSec"] == ["0"], "else it stays closed"


def test_the_service_can_read_what_an_operator_gives_it() -> None:
    unit = settings("relay.service")
    assert unit["DynamicUser"] == []
    assert (unit["User"], unit["Group"]) == (["relay"], ["relay"])
    user = (DEPLOY / "sysusers.d/relay.conf").read_text("utf-8")
    assert re.search(r"^u relay ", user, re.MULTILINE)
    folders = (DEPLOY / "tmpfiles.d/relay.conf").read_text("utf-8")
    assert "z /etc/relay/relay.toml 0640 root relay" in folders
    assert re.search(r"^d /var/lib/relay 0750 relay relay - -", folders, re.MULTILINE)


def test_the_sockets_are_named_as_the_relay_takes_them_and_come_with_the_service() -> None:
    source = Path(take_inherited.__code__.co_filename).parent
    boot = "".join(file.read_text() for file in source.rglob("*.py"))
    names = {settings(unit)["FileDescriptorName"][0] for unit in SOCKETS}
    assert names == {"relay", "admin"}
    assert '"relay": server.listen, "admin": server.admin' in boot
    service = settings("relay.service")
    assert service["Sockets"] == [" ".join(SOCKETS)]
    assert service["Also"] == [" ".join(SOCKETS)]
    server = Config().server
    assert settings("relay.socket")["ListenStream"] == [server.listen]
    assert settings("relay-admin.socket")["ListenStream"] == [server.admin]
    assert settings("relay.socket")["Backlog"] == [str(server.backlog)]


def test_the_kernel_is_asked_for_what_the_doctor_wants() -> None:
    text = (DEPLOY / "sysctl.d/60-relay.conf").read_text("utf-8")
    found = dict(re.findall(r"^([\w.-]+) = (.+)$", text, re.MULTILINE))
    assert int(found["net.core.somaxconn"]) >= Config().server.backlog
    low, high = map(int, found["net.ipv4.ip_local_port_range"].split())
    assert low > 8082, "a listener's port must not be taken by a connection"
    assert high - low > 50_000
    for line in text.splitlines():
        assert re.match(r"#|[\w.-]+ = |$", line), line
    reasons = text.split("\n\n", 1)[1]
    assert not re.search(r"^[\w.-]+ = .*\n[\w.-]+ = ", reasons, re.MULTILINE), "each has its reason"


# --- the proxies in front ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fullchain.pem, key.pem, and both in relay.pem."""
    folder = tmp_path_factory.mktemp("pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"),
            *("-keyout", folder / "key.pem", "-out", folder / "fullchain.pem", "-days", "2"),
        ],
        check=True,
        capture_output=True,
    )
    both = (folder / "fullchain.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "relay.pem").write_text(both)
    return folder


def example(name: str, pem: Path) -> str:
    return (DEPLOY / "tls" / name).read_text("utf-8").replace("/etc/ssl/relay", str(pem))


def check(program: str, *words: str | Path) -> None:
    found = find(program)
    assert found is not None
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr


@needs("nginx", "openssl")
def test_nginx_takes_its_example(tmp_path: Path, pem: Path) -> None:
    file = tmp_path / "nginx.conf"
    body = example("nginx.conf", pem)
    file.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{body}\n}}\n")
    check("nginx", "-t", "-e", "stderr", "-p", tmp_path, "-c", file)


@needs("haproxy", "openssl")
def test_haproxy_takes_its_example(tmp_path: Path, pem: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(example("haproxy.cfg", pem))
    check("haproxy", "-c", "-f", file)


@needs("caddy")
def test_caddy_takes_its_example() -> None:
    file = DEPLOY / "tls" / "Caddyfile"
    check("caddy", "validate", "--adapter", "caddyfile", "--config", file)


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg", "Caddyfile"])
def test_each_example_streams_and_outwaits_the_relay(name: str) -> None:
    text = (DEPLOY / "tls" / name).read_text("utf-8")
    waits = {int(found) for found in re.findall(r"\b(\d{4})s\b", text)}
    assert waits
    assert min(waits) > Config().timeouts.total_s
    unbuffered = {"nginx.conf": "proxy_buffering off", "Caddyfile": "flush_interval -1"}
    assert unbuffered.get(name, "") in text
