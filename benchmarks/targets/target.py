"""What is measured: the relay, a peer, the upstream itself, or a URL; each one running server.

with start(name, place) as server:      server.port, server.pids(), server.key ...
"""

import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers.install import environment, find, missing
from benchmarks.peers.table import PEERS, Peer
from benchmarks.targets.place import KEY, Place, Server
from benchmarks.targets.processes import await_answer, free_port, running
from benchmarks.targets.relay_server import RELAY_DOES, start_relay

RELAY: Final = "relay"
DIRECT: Final = "direct"
"""The scripted upstream without anything before it: what latencies are compared with."""
_CONFIGS: Final = Path(__file__).parents[1] / "peers" / "config"


def absence(name: str) -> str:
    """Say why a target cannot be measured here; "" where it can."""
    if name in (RELAY, DIRECT):
        return ""
    if name not in PEERS:
        return f"unknown target; there are relay, direct, {', '.join(PEERS)}"
    return "" if find(PEERS[name]) is not None else missing(PEERS[name])


def does(name: str) -> str:
    """Say what a target does on the way."""
    if name == RELAY:
        return RELAY_DOES
    return PEERS[name].does if name in PEERS else "the scripted upstream itself"


@contextmanager
def start(name: str, place: Place) -> Iterator[Server]:
    """Run a target until the block ends.

    Raises:
        NotStarted: It did not come up.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    place.folder.chmod(0o755)  # as root, some drop their rights and must still reach it
    with start_relay(place) if name == RELAY else _start_peer(PEERS[name], place) as server:
        yield server


@contextmanager
def _start_peer(peer: Peer, place: Place) -> Iterator[Server]:
    port = free_port()
    words = _words(peer, place, port)
    for file in peer.config:
        text = (_CONFIGS / file).read_text()
        place.folder.joinpath(file).write_text(_fill(text, words))
    program = find(peer)
    assert program is not None, "absence() was asked before"
    command = [program, *(_fill(argument, words) for argument in peer.arguments)]
    env = environment(peer) | {name: _fill(value, words) for name, value in peer.env.items()}
    if place.trust:
        env["SSL_CERT_FILE"] = place.trust
    log = place.folder / "output.log"
    headers = {name: _fill(value, words) for name, value in peer.headers.items()}
    with running(command, cores=set(place.cores), port=port, log=log, env=env) as pid:
        if peer.ready_path:
            await_answer(f"http://127.0.0.1:{port}{peer.ready_path}")
        yield Server(port=port, pid=pid, does=peer.does, headers=headers)


def _words(peer: Peer, place: Place, port: int) -> dict[str, str]:
    """Return what $names stand for in a peer's configuration and arguments."""
    return {
        "port": str(port),
        "admin": str(free_port()),
        "upstream": str(place.upstreams[0]),
        "scheme": place.scheme,
        "provider": "anthropic" if place.messages else "openai",
        "base_path": "" if place.messages else "/v1",
        "folder": str(place.folder),
        "config": str(place.folder / peer.config[0]) if peer.config else "",
        "peer": str(Path(sys.executable).parents[1] / "peers" / peer.name),
        "python": sys.executable,
        "key": KEY,
        "tls_options": peer.tls_options.replace("$trust", place.trust) if place.trust else "",
    }


def _fill(text: str, words: dict[str, str]) -> str:
    return string.Template(text).safe_substitute(words)
