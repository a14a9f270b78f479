"""Goal: what a soak breaks it mends. Method: fault upon fault on two scripted upstreams."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.soak import faults
from benchmarks.soak.faults import Mischief, Stand
from benchmarks.targets.place import Server
from benchmarks.targets.processes import await_answer, free_port, running
from benchmarks.targets.upstream import Script, read_state, start_upstream

KINDS = {"upstream killed", "upstream frozen", "upstream refusing", "Valkey frozen"}
DATABASE = """
import ctypes, socket, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[2].encode(), 0, 0, 0)  # PR_SET_NAME
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_every_fault_is_struck_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "EVERY_S", 0.01)
    monkeypatch.setattr(faults, "LAST_S", 0.05)
    cores, script, said = os.sched_getaffinity(0), Script(), list[str]()
    port = free_port()
    valkey = ["python3", "-c", DATABASE, str(port), "valkey-server"]
    with ExitStack() as stack:
        pid = stack.enter_context(
            running(valkey, cores=cores, port=port, log=tmp_path / "valkey.log")
        )
        upstreams = [
            stack.enter_context(start_upstream(script, cores=cores, folder=tmp_path))
            for _ in range(2)
        ]
        server = Server(port=port, pid=pid, does="")
        stand = Stand(script, cores, tmp_path)
        until_s = time.monotonic() + 20
        with Mischief(server, upstreams, stand, seed=2, say=said.append) as mischief:
            while KINDS - {each["fault"] for each in mischief.struck}:
                assert time.monotonic() < until_s, mischief.struck
                time.sleep(0.05)
        assert [each for each in mischief.struck if "not_struck" in each] == []
        assert len(said) == len(mischief.struck)
        assert state(pid) == "S"
    for upstream in upstreams:
        with pytest.raises(OSError, match="refused"):
            read_state(upstream)


def test_an_upstream_that_was_killed_answers_again_on_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LAST_S", 0.05)
    cores, script = os.sched_getaffinity(0), Script()
    with ExitStack() as stack:
        upstreams = [
            stack.enter_context(start_upstream(script, cores=cores, folder=tmp_path))
            for _ in range(2)
        ]
        server = Server(port=0, pid=os.getpid(), does="")
        mischief = Mischief(
            server, upstreams, Stand(script, cores, tmp_path), seed=1, say=lambda _: None
        )
        with mischief:
            mischief._kill([0])
            mischief._kill([0, 1])
            for upstream in upstreams:
                await_answer(f"http://127.0.0.1:{upstream.port}/health")
