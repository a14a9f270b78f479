"""Clients notice no death and no roll, and nothing outlives the supervisor: kill real processes.

The supervisor runs in a process of its own, with stand-ins for workers (stand_in.py). What has to
be waited for is waited for on a socket, a log line or a pidfd, never by sleeping.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

RELAY = (sys.executable, str(Path(__file__).parents[1] / "stand_in_relay.py"))
PATIENCE_S = 10.0


class Relay:
    """A supervisor under test."""

    def __init__(self, data_dir: Path, process: subprocess.Popen[str]) -> None:
        self.data_dir = data_dir
        self.process = process
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().rpartition(":")
        self.address = (host, int(port or 0))

    def connect(self, path: str = "/") -> socket.socket:
        sock = socket.create_connection(self.address, timeout=PATIENCE_S)
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return sock

    def ask(self, path: str = "/") -> tuple[str, int, int]:
        """Return (worker's name, its pid, timeouts.total_s it runs under)."""
        with self.connect(path) as sock:
            return read_answer(sock)

    def until_logged(self, event: str) -> dict[str, object]:
        """Read the log until `event` is said; return its line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            record: dict[str, object] = json.loads(line)
            if record["event"] == event:
                return record
        raise AssertionError(f"the log ended without: {event}")

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)


def read_answer(sock: socket.socket) -> tuple[str, int, int]:
    answer = b""
    while part := sock.recv(4096):
        answer += part
    name, pid, total_s = answer.partition(b"\r\n\r\n")[2].decode().split()
    return name, int(pid), int(total_s)


def gone_within(pid: int, wait_s: float) -> bool:
    """Return whether the process ends in time; it may be anybody's child."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))
    finally:
        os.close(watched)


@contextlib.contextmanager
def running(
    data_dir: Path,
    *,
    address: str = "127.0.0.1:0",
    workers: int = 1,
    drain_s: float = 5,
    environ: dict[str, str] | None = None,
) -> Iterator[Relay]:
    process = subprocess.Popen(
        [*RELAY, str(data_dir), address, str(workers), str(drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )
    with process:
        try:
            yield Relay(data_dir, process)
        finally:
            # The second signal makes it hurry; two of one kind might arrive as one.
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)


def test_a_killed_worker_is_replaced_within_a_second(tmp_path: Path) -> None:
    took_s: list[float] = []
    while not took_s or (took_s[-1] >= 1 and len(took_s) < 3):  # a busy machine has three tries
        with running(tmp_path / f"{len(took_s)}") as relay:
            _, pid, _ = relay.ask()
            os.kill(pid, signal.SIGKILL)
            killed_s = time.monotonic()
            _, next_pid, _ = relay.ask()
            took_s.append(time.monotonic() - killed_s)
            assert next_pid != pid
            died = relay.until_logged("child died")
            assert (died["pid"], died["reason"], died["wait_s"]) == (pid, "SIGKILL", 0)
    assert took_s[-1] < 1, took_s


def test_connections_that_queue_on_a_dying_worker_are_served_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        _, pid, _ = relay.ask()
        os.kill(pid, signal.SIGSTOP)
        queued = [relay.connect() for _ in range(50)]
        os.kill(pid, signal.SIGKILL)
        answers = {read_answer(sock) for sock in queued}
        for sock in queued:
            sock.close()
        assert len(answers) == 1
        assert answers.pop()[1] != pid


def test_both_workers_get_connections_and_one_s_death_leaves_the_other_alone(
    tmp_path: Path,
) -> None:
    with running(tmp_path, workers=2) as relay:
        pids: dict[str, int] = {}
        while len(pids) < 2:
            name, pid, _ = relay.ask()
            pids[name] = pid
        os.kill(pids["worker-0"], signal.SIGKILL)
        answers = [relay.ask() for _ in range(20)]
        assert pids["worker-0"] not in {pid for _, pid, _ in answers}
        assert {pid for name, pid, _ in answers if name == "worker-1"} <= {pids["worker-1"]}


def test_a_stuck_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        _, pid, _ = relay.ask()
        with relay.connect("/stuck"):
            assert relay.until_logged("child is stuck")["pid"] == pid
            assert relay.ask()[1] != pid


def test_who_keeps_dying_young_is_restarted_ever_more_slowly(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        _, pid, _ = relay.ask()
        (tmp_path / "broken").touch()
        os.kill(pid, signal.SIGKILL)
        waits = [relay.until_logged("child died")["wait_s"] for _ in range(4)]
        assert waits == [0.0, 0.25, 0.5, 1.0]
        (tmp_path / "broken").unlink()
        assert relay.ask()[1] != pid


def test_sigterm_lets_a_stream_finish(tmp_path: Path) -> None:
    with running(tmp_path) as relay, relay.connect("/slow") as stream:
        assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
        relay.process.send_signal(signal.SIGTERM)
        assert read_answer(stream)[0] == "worker-0"
        assert relay.wait() == 0


def test_a_stream_that_outlasts_the_drain_is_cut(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=0.3) as relay:
        _, pid, _ = relay.ask()
        with relay.connect("/hold") as stream:
            assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
            relay.process.send_signal(signal.SIGTERM)
            assert relay.wait() == 0
            assert gone_within(pid, 0)


def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=3600) as relay, relay.connect("/hold") as stream:
        assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
        relay.process.send_signal(signal.SIGINT)
        while True:  # the worker closed its socket: the first signal has arrived
            try:
                relay.connect().close()
            except ConnectionError:
                break
        relay.process.send_signal(signal.SIGTERM)
        assert relay.wait() == 0


def test_a_killed_supervisor_leaves_no_orphan_and_the_next_start_works(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as relay:
        pids: set[int] = set()
        while len(pids) < 2:
            pids.add(relay.ask()[1])
        relay.process.kill()
        assert all(gone_within(pid, 2) for pid in pids)
        host, port = relay.address
        with running(tmp_path, address=f"{host}:{port}", workers=2) as second:
            assert second.address == relay.address
            assert second.ask()[1] not in pids


def test_a_second_relay_cannot_share_the_port_unseen(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        host, port = relay.address
        second = subprocess.run(
            [*RELAY, str(tmp_path), f"{host}:{port}", "1", "1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"cannot listen on {host}:{port}: Address already in use" in second.stderr
        assert second.returncode != 0


def test_sighup_rolls_the_workers_and_a_running_stream_stays(tmp_path: Path) -> None:
    with running(tmp_path) as relay, relay.connect("/slow") as stream:
        assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
        _, pid, total_s = relay.ask()
        (tmp_path / "relay.toml").write_text("[timeouts]\ntotal_s = 77\n")
        relay.process.send_signal(signal.SIGHUP)
        while (now := relay.ask())[2] == total_s:
            assert now[1] == pid
        assert now[1] != pid
        assert now[2] == 77
        assert read_answer(stream)[1] == pid
        assert gone_within(pid, PATIENCE_S)


def test_the_successor_is_replaced_too_while_its_predecessor_still_drains(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=3600) as relay, relay.connect("/hold") as stream:
        assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
        _, first, _ = relay.ask()
        relay.process.send_signal(signal.SIGHUP)
        while (second := relay.ask()[1]) == first:
            pass
        os.kill(second, signal.SIGKILL)
        while relay.ask()[1] in {first, second}:  # the first one may not have heard of it yet
            pass
        assert not gone_within(first, 0)


def test_a_stream_that_drains_after_a_roll_may_go_on_through_the_stop(tmp_path: Path) -> None:
    with running(tmp_path) as relay, relay.connect("/slow") as stream:
        assert stream.recv(15).startswith(b"HTTP/1.0 200 OK")
        _, first, _ = relay.ask()
        relay.process.send_signal(signal.SIGHUP)
        while relay.ask()[1] == first:
            pass
        relay.process.send_signal(signal.SIGTERM)
        assert read_answer(stream)[1] == first
        assert relay.wait() == 0


def test_a_bad_configuration_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        before = relay.ask()
        (tmp_path / "relay.toml").write_text("[timeouts]\ntotal_s = -1\n")
        relay.process.send_signal(signal.SIGHUP)
        assert "timeouts.total_s" in str(relay.until_logged("reload refused")["reason"])
        assert relay.ask() == before


def test_a_new_generation_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        before = relay.ask()
        (tmp_path / "refuse").touch()
        (tmp_path / "relay.toml").write_text("[timeouts]\ntotal_s = 77\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.until_logged("reload given up")
        assert relay.ask() == before


def test_a_child_that_refuses_the_configuration_at_the_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with running(tmp_path) as relay:
        assert relay.wait() == 78


def test_systemd_is_told_and_its_sockets_are_used(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(PATIENCE_S)

    def until_told(line: str) -> None:
        while line not in manager.recv(4096).decode().split("\n"):
            pass

    listener = socket.create_server(("127.0.0.1", 0))
    process = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            'LISTEN_PID=$$ exec "$@" 3<&0',
            "sh",
            *RELAY,
            str(tmp_path),
            "127.0.0.1:1",
            "1",
            "5",
        ],
        stdin=listener.fileno(),
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "relay",
        },
    )
    with process, manager, listener:
        relay = Relay(tmp_path, process)
        assert relay.address == listener.getsockname()
        assert relay.ask()[0] == "worker-0"
        until_told("READY=1")
        until_told("WATCHDOG=1")
        until_told("STATUS=1 of 1 workers ready")
        process.send_signal(signal.SIGHUP)
        until_told("RELOADING=1")
        until_told("READY=1")
        process.send_signal(signal.SIGTERM)
        until_told("STOPPING=1")
        assert relay.wait() == 0


def test_a_terminal_that_hangs_up_ends_it(tmp_path: Path) -> None:
    """A session of its own on a pseudo terminal, as a login has; then the terminal goes."""
    terminal, side = os.openpty()
    process = subprocess.Popen(
        ["/usr/bin/env", "setsid", "--ctty", *RELAY, str(tmp_path), "127.0.0.1:0", "1", "5"],
        stdin=side,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        os.close(side)
        relay = Relay(tmp_path, process)
        _, pid, _ = relay.ask()
        os.close(terminal)
        assert relay.wait() == 0
        assert gone_within(pid, 0)
