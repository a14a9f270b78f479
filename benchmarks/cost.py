"""What one call and one streamed event cost in CPU: the whole relay beside the obvious one.

Everything is on in the relay: keys, rights, metering, journal, request log. The peers only pass
bytes on. Each target has core 0 for itself in turn; the load and the scripted upstream share core
1. Counted is the CPU time of the target's worker processes over the run, user and system.

    load (core 1) --> target (core 0) --> scripted upstream (core 1)

Run: python -m benchmarks.cost [--repeats N] [--json FILE]
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
KEY: Final = "relay_benchmark-key"
READY_S: Final = 30.0

SCENARIOS: Final[dict[str, dict[str, Any]]] = {
    "json": {"kind": "json", "connections": 32, "calls": 20_000, "chunks": 40, "interval_ms": 0},
    "paced": {"kind": "stream", "connections": 150, "calls": 300, "chunks": 300, "interval_ms": 10},
}

CATALOG: Final = """
[[channel]]
name = "scripted"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:BENCH_UPSTREAM_KEY"
models = ["gpt-4o-mini"]
[[line]]
name = "bench"
channels = ["scripted"]
[[group]]
name = "bench"
lines = ["bench"]
[[price]]
model = "gpt-4o-mini"
input = "0.15"
output = "0.60"
cached_input = "0.075"
[[account]]
name = "bench"
group = "bench"
credit_limit = "1000000"
[[key]]
account = "bench"
name = "bench"
key = "env:BENCH_KEY"
"""

NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream scripted {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{
      proxy_pass http://scripted; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s; client_body_buffer_size 1m;
    }}
  }}
}}
"""


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], core: int, port: int, **env: str) -> Iterator[int]:
    """Run a server on one core until the block ends; yield its pid once it listens on `port`."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        until_s = time.monotonic() + READY_S
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"{command[0]} did not come up")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(admin: int) -> None:
    """Wait until the relay's admin listener says that it is ready."""
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the relay did not become ready")


def descendants(pid: int) -> list[int]:
    """Return the pids of a process and of all below it."""
    found = [pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        if children.exists():
            found.extend(int(child) for child in children.read_text().split())
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds, user and system, that the processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def put_load(port: int, scenario: dict[str, Any], calls: int) -> dict[str, Any]:
    """Run the load on core 1; return what it reports."""
    command = [
        *(sys.executable, "-m", "benchmarks.load", str(port), "--key", KEY),
        *("--kind", scenario["kind"], "--connections", str(scenario["connections"])),
        *("--calls", str(calls)),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def measure(port: int, pids: list[int], everything: list[int], name: str) -> dict[str, Any]:
    """Measure one scenario against one target once."""
    scenario = SCENARIOS[name]
    put_load(port, scenario, scenario["connections"] * 2)
    before_s, all_before_s = cpu_s(pids), cpu_s(everything)
    report = put_load(port, scenario, scenario["calls"])
    used_s = cpu_s(pids) - before_s
    per = report["done"] if name == "json" else report["events"]
    return {
        "cpu_us": 1e6 * used_s / max(per, 1),
        "cpu_us_all_processes": 1e6 * (cpu_s(everything) - all_before_s) / max(per, 1),
        "per_second": per / report["wall_s"],
        "bad": report["bad"],
        "ttft_ms": report["ttft_ms"],
        "load_cpu_share": report["load_cpu_share"],
    }


@contextmanager
def relay_target(upstream: int) -> Iterator[tuple[int, int]]:
    """Run the whole relay, embedded servers and all, with one worker."""
    port, admin = free_port(), free_port()
    relay = str(Path(sys.executable).parent / "relay")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, the database runs as another user
        catalog = Path(folder, "catalog.toml")
        catalog.write_text(CATALOG.format(port=upstream))
        options = ["--data-dir", str(Path(folder, "var"))]
        serve = [
            *(relay, "serve", *options, "--workers", "1"),
            *("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"),
        ]
        secrets = {"BENCH_KEY": KEY, "BENCH_UPSTREAM_KEY": "sk-upstream"}
        with running(serve, 0, port, **secrets) as pid:
            wait_until_ready(admin)
            subprocess.run(
                [relay, "apply", str(catalog), *options],
                env={**os.environ, **secrets},
                check=True,
                capture_output=True,
            )
            time.sleep(2.0)  # the catalog reaches the worker within a second
            yield port, pid


def worker_pids(pid: int) -> list[int]:
    """Return the pids below the supervisor that carry traffic."""
    return [
        child
        for child in descendants(pid)
        if b"\0worker\0" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@contextmanager
def plain_target(upstream: int) -> Iterator[tuple[int, int]]:
    """Run the obvious relay."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "benchmarks.peers.plain_aiohttp"),
        *(str(port), f"http://127.0.0.1:{upstream}"),
    ]
    with running(command, 0, port) as pid:
        yield port, pid


@contextmanager
def nginx_target(upstream: int) -> Iterator[tuple[int, int]]:
    """Run nginx, where it is installed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
        Path(folder).chmod(0o755)
        with running([nginx_binary() or "", "-c", str(config)], 0, port) as pid:
            yield port, pid


def nginx_binary() -> str | None:
    """Return where nginx is, None where it is not."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


TARGETS: Final = {"relay": relay_target, "plain_aiohttp": plain_target, "nginx": nginx_target}


def run(repeats: int, names: list[str]) -> dict[str, Any]:
    """Measure every target in turn, `repeats` times; return medians and spreads."""
    found: dict[str, Any] = {}
    relay = str(Path(sys.executable).parent / "relay")
    for scenario_name, scenario in SCENARIOS.items():
        upstream = free_port()
        mock = [
            *(relay, "mock", "--port", str(upstream), "--chunks", str(scenario["chunks"])),
            *("--interval-ms", str(scenario["interval_ms"])),
        ]
        with ExitStack() as stack:
            stack.enter_context(running(mock, 1, upstream))
            targets = {n: stack.enter_context(TARGETS[n](upstream)) for n in names}
            for _ in range(repeats):
                for name, (port, pid) in targets.items():
                    pids = worker_pids(pid) or descendants(pid)
                    once = measure(port, pids, descendants(pid), scenario_name)
                    found.setdefault(scenario_name, {}).setdefault(name, []).append(once)
                    sys.stderr.write(f"{scenario_name} {name}: {once['cpu_us']:.1f} us\n")
    return found


def summarise(found: dict[str, Any]) -> list[str]:
    """Return the table: median, spread and ratio to the obvious relay."""
    lines = []
    for scenario, targets in found.items():
        medians = {n: statistics.median(r["cpu_us"] for r in runs) for n, runs in targets.items()}
        for name, runs in targets.items():
            costs = sorted(r["cpu_us"] for r in runs)
            ratio = medians[name] / medians.get("plain_aiohttp", medians[name])
            p99 = statistics.median(r["ttft_ms"]["p99"] for r in runs)
            lines.append(
                f"{scenario:6} {name:14} {medians[name]:7.1f} us ({costs[0]:.1f}-{costs[-1]:.1f})"
                f"  x{ratio:.2f} of plain  ttft p99 {p99:.1f} ms"
                f"  errors {sum(r['bad'] for r in runs)}"
            )
    return lines


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--targets", default="")
    options = parser.parse_args()
    names = options.targets.split(",") if options.targets else list(TARGETS)
    if nginx_binary() is None and "nginx" in names:
        names.remove("nginx")
    found = run(options.repeats, names)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    sys.stdout.write("\n".join(summarise(found)) + "\n")


if __name__ == "__main__":
    main()
