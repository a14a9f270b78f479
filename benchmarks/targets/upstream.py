"""The upstreams of a run (`relay mock`, or `canned`), and a certificate authority made for it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.targets.processes import NotStarted, free_port, running

_RELAY: Final = str(Path(sys.executable).parent / "relay")
_VALID_DAYS: Final = "2"


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's answers.

    `chunks`: tokens of an answer. `interval_ms`: between two events. `ttft_ms`: before the first.
    `canned`: answers stand ready and prompts are not read; then `bursts` is how many events each
    write has, over and over (none = all in one), and `pause_ms` the mean pause between writes, as
    `ttft_ms` is a mean.
    """

    chunks: int = 40
    interval_ms: float = 0.0
    ttft_ms: float = 0.0
    tokens_per_event: int = 1
    canned: bool = False
    bursts: tuple[int, ...] = ()
    pause_ms: float = 0.0


class Authority(msgspec.Struct, frozen=True):
    """Files of a certificate for 127.0.0.1 that is its own authority; valid for two days."""

    certificate: Path
    key: Path


class Upstream(msgspec.Struct, frozen=True):
    """A scripted upstream that runs."""

    port: int
    pid: int
    secure: bool


@contextmanager
def start_upstream(
    script: Script,
    *,
    cores: set[int],
    folder: Path,
    authority: Authority | None = None,
    port: int = 0,
) -> Iterator[Upstream]:
    """Run an upstream until the block ends; port 0 = any that is free."""
    port = port or free_port()
    command = _canned(script, port) if script.canned else _mock(script, port)
    if authority is not None:
        assert not script.canned, "it speaks plain HTTP"
        command += ["--tls-cert", str(authority.certificate), "--tls-key", str(authority.key)]
    log = folder / f"upstream-{port}.log"
    with running(command, cores=cores, port=port, log=log) as pid:
        yield Upstream(port, pid, authority is not None)


def _canned(script: Script, port: int) -> list[str]:
    said = msgspec.json.encode(script).decode()
    return [sys.executable, "-m", "benchmarks.targets.canned", str(port), said]


def _mock(script: Script, port: int) -> list[str]:
    return [
        *(_RELAY, "mock", "--port", str(port), "--chunks", str(script.chunks)),
        *("--interval-ms", str(script.interval_ms), "--ttft-ms", str(script.ttft_ms)),
        *("--tokens-per-event", str(script.tokens_per_event)),
    ]


def make_authority(folder: Path) -> Authority:
    """Make a key and a certificate for 127.0.0.1 in `folder`.

    Raises:
        NotStarted: There is no openssl here.
    """
    made = Authority(folder / "upstream.pem", folder / "upstream.key")
    command = [
        *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"),
        *("ec_paramgen_curve:prime256v1", "-days", _VALID_DAYS, "-subj", "/CN=127.0.0.1"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(made.key), "-out", str(made.certificate)),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotStarted(f"a certificate needs the openssl command: {error}") from error
    made.certificate.chmod(0o644)
    return made


def read_state(upstream: Upstream) -> dict[str, Any]:
    """Return what a plain upstream says of itself: calls, connections, tokens."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{upstream.port}/_mock/state", timeout=5
    ) as answer:
        state: dict[str, Any] = json.load(answer)
        return state
