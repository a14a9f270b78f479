"""The relay under measurement: whole, with its own databases, on one dedicated line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.targets.place import KEY, MODEL, Place, Server
from benchmarks.targets.processes import NotStarted, await_answer, free_port, running
from relay.store import metrics as worker_metrics

RELAY_DOES: Final = (
    "everything on: key looked up, rights, limits, routing, metering, journal, request log"
)

_RELAY: Final = str(Path(sys.executable).parent / "relay")
_BEARER: Final = {"Authorization": f"Bearer {KEY}"}

_CATALOG: Final = """
[[line]]
name = "bench"
kind = "dedicated"
tpm = {tpm}
rpm = 1000000000
splice = {splice}
channels = [{names}]
[[group]]
name = "bench"
multiplier = "0.8"
lines = [{lines}]
[[price]]
model = "{model}"
input = "0.15"
output = "0.60"
cached_input = "0.075"
[[account]]
name = "bench"
group = "bench"
credit_limit = "1000000000"
# Limits that are on and never reached: what they cost is part of what a call costs.
tpm = 1000000000000
rpm = 1000000000
concurrency = 1000000
[[key]]
account = "bench"
name = "bench"
key = "env:BENCH_KEY"
"""
_CHANNEL: Final = """
[[channel]]
name = "scripted-{number}"
base_url = "{scheme}://127.0.0.1:{port}{path}"
protocol = "{protocol}"
api_key = "env:BENCH_UPSTREAM_KEY"
models = ["{model}"]
resume = "{resume}"
tpm = {quota_tpm}
"""
_OTHER_LINE: Final = """
[[line]]
name = "{kind}"
kind = "{kind}"
channels = [{names}]
"""
_CHAT: Final = {"protocol": "openai", "path": "/v1", "resume": "trailing"}
_MESSAGES: Final = {"protocol": "anthropic", "path": "", "resume": "none"}


def make_catalog(place: Place) -> str:
    """Return the relay's catalog: one dedicated line over all the scripted upstreams."""
    # Anthropic's clients and channels say /v1 themselves; its answers cannot be carried on.
    dialect = _MESSAGES if place.messages else _CHAT
    channels = [
        _CHANNEL.format(
            number=number,
            scheme=place.scheme,
            port=port,
            model=MODEL,
            quota_tpm=place.quota_tpm,
            **dialect,
        )
        for number, port in enumerate(place.upstreams)
    ]
    names = ", ".join(f'"scripted-{number}"' for number in range(len(place.upstreams)))
    splice = "true" if place.splice else "false"
    kinds = ("standard", "training") if place.quota_tpm else ()
    others = "".join(_OTHER_LINE.format(kind=kind, names=names) for kind in kinds)
    lines = ", ".join(f'"{line}"' for line in ("bench", *kinds))
    return (
        "".join(channels)
        + others
        + _CATALOG.format(tpm=place.line_tpm, splice=splice, names=names, model=MODEL, lines=lines)
    )


@contextmanager
def start_relay(place: Place) -> Iterator[Server]:
    """Run the whole relay, embedded servers and all, on the cores of the place."""
    port, admin = free_port(), free_port()
    console = free_port() if place.database or place.console else 0
    var = place.folder / "var"
    options = ("--data-dir", str(var))
    catalog = place.folder / "catalog.toml"
    catalog.write_text(make_catalog(place))
    env = {"BENCH_KEY": KEY, "BENCH_UPSTREAM_KEY": "sk-upstream", **place.environ}
    if place.trust:
        env["SSL_CERT_FILE"] = place.trust
    if place.database:
        env["RELAY_DATABASE__URL"] = place.database
    log = place.folder / "output.log"
    command = _serve(place, var, port, admin, console)
    with running(command, cores=set(place.cores), port=port, log=log, env=env) as pid:
        await_answer(f"http://127.0.0.1:{admin}/readyz")
        _apply([_RELAY, "apply", str(catalog), *options], env)
        # The catalog reaches the worker within a second.
        await_answer(f"http://127.0.0.1:{port}/v1/models", _BEARER)
        redis = var / "embedded" / "sockets" / "valkey.sock"
        yield Server(
            port=port,
            pid=pid,
            does=RELAY_DOES,
            redis=redis if redis.exists() else None,
            logged=lambda: _count_logged([_RELAY, "usage", "--by", "day", "--json", *options]),
            bounded=lambda: _count_unlogged(var),
            audited=lambda: _audit([_RELAY, "audit", "--json", *options]),
            maintain=[_RELAY, "maintenance", "run", "--json", *options],
            console=console,
            admin=admin,
            data_dir=var,
        )


@contextmanager
def start_beside(first: Server, place: Place) -> Iterator[Server]:
    """Run the relay of another host: on the Postgres, Redis, pepper and key of the first one's."""
    assert first.data_dir is not None
    record = json.loads((first.data_dir / "run" / "embedded.json").read_bytes())
    secrets = first.data_dir / "secrets"
    var = place.folder / "var"
    env = {
        "RELAY_DATABASE__URL": record["postgres"]["url"],
        "RELAY_REDIS__URL": record["valkey"]["url"],
        "RELAY_SECRETS__PEPPER": f"file:{secrets / 'pepper.key'}",
        "RELAY_SECRETS__MASTER_KEY": f"file:{secrets / 'master.key'}",
    }
    place.folder.mkdir(parents=True)
    port, admin = free_port(), free_port()
    command = _serve(place, var, port, admin)
    log = place.folder / "output.log"
    with running(command, cores=set(place.cores), port=port, log=log, env=env) as pid:
        await_answer(f"http://127.0.0.1:{admin}/readyz")
        await_answer(f"http://127.0.0.1:{port}/v1/models", _BEARER)
        yield Server(
            port=port, pid=pid, does=RELAY_DOES, bounded=lambda: _count_unlogged(var), data_dir=var
        )


def _serve(place: Place, var: Path, port: int, admin: int, console: int = 0) -> list[str]:
    """Return the command that serves on these ports; without a console where that has none."""
    return [
        *(_RELAY, "serve", "--data-dir", str(var), "--workers", str(place.workers)),
        *("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"),
        *("--console", f"127.0.0.1:{console}" if console else ""),
    ]


def _count_logged(command: list[str]) -> int:
    """Return how many calls the request log holds, by the relay's own command."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return sum(int(row["requests"]) for row in rows)


def _count_unlogged(var: Path) -> int:
    """Return how many refused calls its workers have counted and not written down."""
    published = worker_metrics.read_all(var / "run" / "metrics").values()
    return sum(one.counters.get("unlogged", {}).get((), 0) for slot in published for one in slot)


def _audit(command: list[str]) -> dict[str, Any]:
    """Return what the relay's own audit says of its books; it exits with 1 where they drift."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _apply(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(
        command, check=False, env={**os.environ, **env}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise NotStarted(f"relay apply failed: {done.stderr[-500:]}")
