"""Goal: the doctor finds what is wrong with a host, and leaves alone what is well.

Method: a kernel's files written into a folder, files with the wrong mode, certificates made by
openssl, sizes of a journal; each fault beside the state without it.
"""

import datetime
import subprocess
from pathlib import Path

import pytest

from relay.config import Config, Console, JournalConfig, Server
from relay.control.doctor.certificates import check_certificate, not_after
from relay.control.doctor.disk import check_backlog, check_room, check_secrets
from relay.control.doctor.examine import certificate_files
from relay.control.doctor.host import (
    TIME_ERROR,
    check_clock,
    check_descriptors,
    check_host,
    check_packages,
    find_workers,
)
from relay.control.doctor.postgres import judge_latency, judge_skew
from relay.control.doctor.redis import read_told
from relay.control.doctor.upstreams import find_hosts, judge_plain
from relay.night_rules import Maintenance
from relay.outside import Oidc, Otlp
from relay.store.log.writer import Mark

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            {files}              262144               files
"""


def kernel(folder: Path, *, somaxconn: int = 4096, ports: str = "10240\t65535") -> Path:
    for name, text in (
        ("sys/net/core/somaxconn", f"{somaxconn}\n"),
        ("sys/net/ipv4/ip_local_port_range", f"{ports}\n"),
        ("self/limits", LIMITS.format(files="1048576")),
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def bad(data_dir: Path, proc: Path) -> set[str]:
    found = check_host(Config(), data_dir, proc)
    return {one.check for one in found if not one.ok} - {"clock"}  # this machine's may be free


def test_a_host_that_is_well(tmp_path: Path) -> None:
    assert bad(tmp_path / "data", kernel(tmp_path / "proc")) == set()


def test_a_short_queue(tmp_path: Path) -> None:
    assert bad(tmp_path / "data", kernel(tmp_path / "proc", somaxconn=128)) == {"somaxconn"}


def test_too_few_ports(tmp_path: Path) -> None:
    proc = kernel(tmp_path / "proc", ports="50000\t60000")
    assert bad(tmp_path / "data", proc) == {"port range"}


def test_the_workers_limits_count_where_workers_run(tmp_path: Path) -> None:
    metrics = tmp_path / "data" / "run" / "metrics"
    metrics.mkdir(parents=True)
    for name in ("worker-0-41", "worker-1-42", "worker-0-retired", "control-7"):
        (metrics / name).touch()
    assert find_workers(tmp_path / "data") == [41, 42]
    proc = kernel(tmp_path / "proc")
    for pid, files in ((41, "262144"), (42, "1024")):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "limits").write_text(LIMITS.format(files=files))
    found = check_descriptors(Config(), [41, 42], proc)
    assert not found.ok
    assert "a worker may open 1024" in found.value
    assert "LimitNOFILE=262144" in found.mend
    assert check_descriptors(Config(), [41], proc).ok
    few = Config(server=Server(connections_max=10))
    assert not check_descriptors(few, [42], proc).ok
    assert check_descriptors(few, [99], proc).ok, "a worker that is gone is not counted"


def test_a_clock_that_runs_free() -> None:
    assert not check_clock(TIME_ERROR).ok
    assert "set-ntp" in check_clock(TIME_ERROR).mend
    assert check_clock(0).ok
    assert not judge_skew(2.0).ok
    assert judge_skew(0.1).ok


def test_a_database_far_away() -> None:
    assert not judge_latency("postgres latency", 90.0, 20.0).ok
    assert judge_latency("postgres latency", 0.4, 20.0).ok


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    roomy = Config(journal=JournalConfig(reserve_bytes=1))
    full = Config(journal=JournalConfig(reserve_bytes=2**40))
    assert check_room(roomy, tmp_path / "not" / "there" / "yet").ok
    assert not check_room(full, tmp_path).ok


def test_a_journal_that_is_not_shipped(tmp_path: Path) -> None:
    generation = "worker-0-0123456789abcdef"
    folder = tmp_path / generation
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "000001.journal").write_bytes(bytes(3_000_000))
    (folder / "000002.journal").write_bytes(bytes(1_000_000))
    config = Config(journal=JournalConfig(segment_bytes_max=2_000_000))
    assert not check_backlog(config, tmp_path, {}).ok
    assert check_backlog(config, tmp_path, {}).value.startswith("3 MiB")
    assert check_backlog(config, tmp_path, {generation: Mark(2, 999_000)}).ok
    assert not check_backlog(config, tmp_path, {generation: Mark(1, 10)}).ok
    assert check_backlog(config, tmp_path, {generation: Mark(1, 10, closed=True)}).ok
    assert check_backlog(config, tmp_path / "none", {}).ok


def test_secrets_that_others_can_read(tmp_path: Path) -> None:
    assert list(check_secrets(tmp_path)) == []
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("pepper.key", "master.key"):
        (folder / name).touch(mode=0o600)
    assert [one.ok for one in check_secrets(tmp_path)] == [True]
    (folder / "pepper.key").chmod(0o644)
    [found] = check_secrets(tmp_path)
    assert not found.ok
    assert "pepper.key" in found.value
    assert "chmod 0600" in found.mend


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 30 days from today."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-keyout", folder / "key.pem", "-out", folder / "own.pem", "-subj", "/CN=relay.test"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "own.pem"


def test_a_certificate_that_expires(certificate: Path, tmp_path: Path) -> None:
    made = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    assert abs(not_after(certificate.read_text()) - made - 30 * day) < day
    assert check_certificate(certificate, made).ok
    soon = check_certificate(certificate, made + 25 * day)
    assert not soon.ok
    assert "good for" in soon.value
    late = check_certificate(certificate, made + 31 * day)
    assert not late.ok
    assert "expired" in late.value
    assert "renew" in late.mend


@pytest.mark.parametrize("text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_certificate(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text(text)
    assert not check_certificate(file, NOW).ok
    assert "cannot be read" in check_certificate(tmp_path / "none.pem", NOW).value


def test_a_damaged_certificate_is_no_crash(certificate: Path) -> None:
    """Cut at each place: the armour stays, the content does not."""
    lines = certificate.read_text().splitlines()
    for count in range(len(lines) - 2):
        pem = "\n".join([lines[0], *lines[1 : 1 + count], lines[-1]])
        with pytest.raises(ValueError, match="certificate"):
            not_after(pem)


def test_a_host_is_asked_once_for_all_its_channels() -> None:
    channels = [("a", "https://x.test/v1"), ("b", "https://x.test:443/"), ("c", "http://y.test")]
    hosts = find_hosts(channels)
    assert [(host.name, host.port, host.channels) for host in hosts] == [
        ("x.test", 443, ("a", "b")),
        ("y.test", 80, ("c",)),
    ]
    assert judge_plain(hosts, allowed=True) == []
    assert [one.value for one in judge_plain(hosts, allowed=False)] == ["y.test"]


def test_what_redis_tells_of_itself() -> None:
    told = read_told(b"# Memory\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n")
    assert told == {"maxmemory": "100", "maxmemory_policy": "allkeys-lru"}
    assert read_told(None) == {}


def test_certificates_are_found_by_the_names_of_settings() -> None:
    assert list(certificate_files(Config())) == []


def test_a_package_that_the_configuration_needs_is_missed_by_name() -> None:
    oidc = Oidc(issuer="https://id.example", client_id="relay")
    config = Config(console=Console(oidc=oidc))
    assert not list(check_packages(Config(), lambda name: None))
    assert [one.ok for one in check_packages(config, lambda name: name)] == [True]
    (found,) = check_packages(config, lambda name: None)
    assert not found.ok
    assert found.value == "console.oidc needs joserfc: pip install 'relay[oidc]'"
    assert found.mend.startswith("pip install 'relay[oidc]'")


def test_a_package_of_the_night_or_of_telemetry_is_missed_by_name_too() -> None:
    night = Maintenance(archive_dir="archive", archive_format="parquet")
    config = Config(maintenance=night, otlp=Otlp(url="http://127.0.0.1:4318"))
    assert [one.ok for one in check_packages(config, lambda name: name)] == [True, True]
    telemetry, archive = check_packages(config, lambda name: None)
    assert telemetry.value == "otlp needs opentelemetry: pip install 'relay[otlp]'"
    assert archive.value == (
        "maintenance.archive_format needs pyarrow: pip install 'relay[parquet]'"
    )
    assert archive.mend.startswith("pip install 'relay[parquet]'")
