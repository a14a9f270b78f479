"""What was measured on: without it a figure means nothing."""

import contextlib
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from relay.compiled import describe
from relay.interpreter import describe_python

ROOT: Final = Path(__file__).parents[2]
_LIBRARIES: Final = ("aiohttp", "httptools", "hiredis", "msgspec", "uvloop")


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, kernel, limits and versions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "cpu_model": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(_memory_kib() / 1024 / 1024, 1),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "virtual": "hypervisor" in _field("/proc/cpuinfo", "flags"),
        "python": describe_python(),
        "relay": describe(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "open_files_max": [soft, hard],
        "somaxconn": _text("/proc/sys/net/core/somaxconn"),
        "load_before": os.getloadavg()[0],
    }


def describe_commit() -> str:
    """Return the commit that was measured, with "-dirty" where files differ; "" outside of git."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        commit = _git("rev-parse", "HEAD")
        return commit + ("-dirty" if _git("status", "--porcelain", "-uno") else "")
    return ""


def describe_command() -> str:
    """Return the command line, as it can be given again."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607  whichever git the developer has
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _field(path: str, name: str, separator: str = ":") -> str:
    for line in _text(path).splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return ""


def _memory_kib() -> int:
    return int((_field("/proc/meminfo", "MemTotal") or "0").split()[0])
