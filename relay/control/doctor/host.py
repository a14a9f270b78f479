"""What the kernel allows this relay. Each check is given where to look, so that tests can plant."""

import ctypes
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.control.doctor.diagnosis import Diagnosis, judge
from relay.outside import find_missing

PROC: Final = Path("/proc")
DESCRIPTORS_EACH: Final = 2
"""For each stream: the client's socket and the upstream's."""
DESCRIPTORS_SPARE: Final = 1_024
"""Journal, Postgres, Redis, logs, and connections on their way out."""
PORTS_MIN: Final = 28_000
"""The kernel's own default is 28,232; less leaves one upstream address too few connections."""
TIME_ERROR: Final = 5
"""Source: adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES: Final = 512
"""More than struct timex has (208 on 64 bit)."""
_SYSCTL: Final = "/usr/lib/sysctl.d/60-relay.conf"


def check_host(config: Config, data_dir: Path, proc: Path = PROC) -> Iterator[Diagnosis]:
    """Yield what the kernel's settings are like."""
    yield check_descriptors(config, find_workers(data_dir), proc)
    yield check_backlog(config, proc)
    yield check_ports(proc)
    yield check_clock(read_clock_state())


def check_packages(
    config: Config, find: Callable[[str], object] = find_spec
) -> Iterator[Diagnosis]:
    """Yield whether what the configuration asks for beyond the package itself is installed."""
    oidc, otlp, night = config.console.oidc, config.otlp, config.maintenance
    found = {
        "sign-in": (find_missing(oidc, find=find), "[console.oidc]", "oidc", oidc.issuer),
        "telemetry": (find_missing(otlp=otlp, find=find), "[otlp]", "otlp", otlp.url),
        "archive": (
            find_missing(night=night, find=find),
            "[maintenance] archive_format",
            "parquet",
            night.archive_dir if night.archive_format == "parquet" else "",
        ),
    }
    for check, (missing, asks, extra, wanted) in found.items():
        if wanted:
            value = missing or f"what {asks} needs is installed"
            mend = f"pip install 'relay[{extra}]', as the relay's user, in its environment"
            yield judge(check, value, mend, ok=missing is None)


def find_workers(data_dir: Path) -> list[int]:
    """Return the pids of the running workers, by what they publish; none where none runs."""
    files = (data_dir / "run" / "metrics").glob("worker-*-[0-9]*")
    return sorted(int(file.name.rpartition("-")[2]) for file in files)


def check_descriptors(config: Config, workers: Iterable[int], proc: Path = PROC) -> Diagnosis:
    """Judge how many files each worker may open; without a worker, this very process."""
    found = {pid: limit for pid in workers if (limit := _open_files(proc / str(pid)))}
    whose = "a worker may open" if found else "this shell may open"
    least = min(found.values(), default=0) or _open_files(proc / "self")
    needed = DESCRIPTORS_EACH * config.server.connections_max + DESCRIPTORS_SPARE
    return judge(
        "descriptors",
        f"{whose} {least} files; {config.server.connections_max} connections need {needed}",
        f"systemctl edit relay.service: [Service] LimitNOFILE={max(needed, 262_144)}; or lower "
        f"[server] connections_max to {max(1, (least - DESCRIPTORS_SPARE) // DESCRIPTORS_EACH)}",
        ok=least >= needed,
    )


def check_backlog(config: Config, proc: Path = PROC) -> Diagnosis:
    """Judge how many connections may queue on a listening socket."""
    allowed = _number(proc / "sys/net/core/somaxconn")
    wanted = config.server.backlog
    return judge(
        "somaxconn",
        f"net.core.somaxconn = {allowed}, [server] backlog = {wanted}",
        f"sysctl -w net.core.somaxconn={wanted}; for good: {_SYSCTL}",
        ok=allowed >= wanted,
    )


def check_ports(proc: Path = PROC) -> Diagnosis:
    """Judge how many connections one upstream address can have."""
    text = _text(proc / "sys/net/ipv4/ip_local_port_range")
    bounds = [int(part) for part in text.split()]
    ports = bounds[1] - bounds[0] + 1 if len(bounds) == 2 else 0
    return judge(
        "port range",
        f"{ports} local ports: so many connections to one upstream address",
        f"sysctl -w net.ipv4.ip_local_port_range='10240 65535'; for good: {_SYSCTL}",
        ok=ports >= PORTS_MIN,
    )


def check_clock(state: int) -> Diagnosis:
    """Judge what the kernel says of its clock: limits, leases and signatures go by it."""
    return judge(
        "clock",
        "not synchronised" if state == TIME_ERROR else "synchronised",
        "timedatectl set-ntp true; or install chrony",
        ok=state != TIME_ERROR,
    )


def read_clock_state() -> int:
    """Return what adjtimex(2) says; asking changes nothing."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return state


def _open_files(process: Path) -> int:
    found = re.search(r"^Max open files +(\d+|unlimited)", _text(process / "limits"), re.MULTILINE)
    if found is None:
        return 0
    return 2**31 if found[1] == "unlimited" else int(found[1])


def _number(file: Path) -> int:
    text = _text(file)
    return int(text) if text.isdigit() else 0


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
