"""`relay serve --demo` is a whole relay: run the real command, call it as its own words say.

One relay serves most tests of this file; the last ones bring it down and up again. What has to be
waited for is waited for on a pipe, a socket or a pidfd.
"""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.live, pytest.mark.timeout(90)]

PATIENCE_S = 30.0
QUESTION = {"model": "demo-model", "messages": [{"role": "user", "content": "Hello"}]}


class Relay:
    """A running `relay serve --demo` and what it said of itself."""

    def __init__(self, data_dir: Path, process: subprocess.Popen[str]) -> None:
        self.data_dir = data_dir
        self.process = process
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "api_key=" in line:
                break
        self.said = "".join(said)
        self.pids = {
            event["child"]: int(event["pid"])
            for event in (json.loads(line) for line in said if line.startswith("{"))
            if event["event"] == "child started"
        }
        self.key = self._find(r'api_key="(\S+)"')
        self.address = self._find(r"http://(\S+)/v1\n")
        self.admin = self._find(r"admin +http://(\S+)")
        self.token = (data_dir / "secrets" / "admin.token").read_text().strip()

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, self.said)
        assert found is not None, self.said
        return found[1]

    def chat(self, *, key: str | None = None, stream: bool = False) -> tuple[int, bytes]:
        body = json.dumps({**QUESTION, "stream": stream})
        headers = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"}
        return request(self.address, "POST", "/v1/chat/completions", body, headers)

    def ask_admin(self, path: str, body: Any = None, *, method: str = "") -> tuple[int, Any]:
        method = method or ("GET" if body is None else "POST")
        headers = {"Authorization": f"Bearer {self.token}"}
        status, answer = request(self.admin, method, path, json.dumps(body), headers)
        return status, json.loads(answer)


def request(
    address: str, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=PATIENCE_S)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


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
def running(data_dir: Path) -> Iterator[Relay]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "relay", "--data-dir", str(data_dir), "serve", "--demo"),
            *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RELAY_LOG": "json"},
    )
    with process:
        try:
            yield Relay(data_dir, process)
        finally:
            # The second signal makes it hurry; two of one kind might arrive as one.
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def data_dir(reachable: Path) -> Path:
    return reachable / "serve"


@pytest.fixture(scope="module")
def relay(data_dir: Path) -> Iterator[Relay]:
    with running(data_dir) as relay:
        yield relay


def test_the_key_it_prints_streams_tokens(relay: Relay) -> None:
    status, answer = relay.chat(stream=True)
    assert status == 200
    events = answer.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(events) > 20


def test_health_and_metrics_are_open_and_the_rest_asks_for_the_token(relay: Relay) -> None:
    assert request(relay.admin, "GET", "/livez") == (200, b'{"alive":true}')
    status, answer = request(relay.admin, "GET", "/readyz")
    assert (status, json.loads(answer)["workers"]) == (200, {"worker-0": "ready"})
    text = request(relay.admin, "GET", "/metrics")[1].decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"relay_requests", "relay_ttfb_seconds", "relay_log_lag_bytes"} <= families
    for token in ("", "Bearer wrong", f"Basic {relay.token}"):
        headers = {"Authorization": token}
        status, answer = request(relay.admin, "GET", "/admin/v1/keys", headers=headers)
        assert status == 401
        assert json.loads(answer)["error"]["code"] == "invalid_api_key"


def test_the_secrets_are_for_the_owner_alone(relay: Relay) -> None:
    folder = relay.data_dir / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_a_key_made_by_the_api_works_until_it_is_disabled(relay: Relay) -> None:
    status, made = relay.ask_admin("/admin/v1/keys", {"account": "demo", "quota_usd": "5"})
    assert status == 201
    until_status(relay, made["key"], 200)
    status, _ = relay.ask_admin(f"/admin/v1/keys/{made['id']}/disable", {})
    assert status == 200
    until_status(relay, made["key"], 401)
    listed = relay.ask_admin("/admin/v1/keys?account=demo")[1]["keys"]
    (row,) = [row for row in listed if row["id"] == made["id"]]
    assert (row["disabled"], row["quota_usd"]) == (True, "5")
    assert made["key"] not in json.dumps(listed)
    assert relay.ask_admin(f"/admin/v1/keys/{made['id']}", method="DELETE")[0] == 200
    assert relay.ask_admin(f"/admin/v1/keys/{made['id']}", method="DELETE")[0] == 404


def until_status(relay: Relay, key: str, status: int) -> None:
    """Call until the answer is `status`: every worker follows the catalog within a second."""
    until_s = time.monotonic() + 5
    while (found := relay.chat(key=key)[0]) != status:
        assert time.monotonic() < until_s, found


def test_channels_are_listed_drained_and_enabled(relay: Relay) -> None:
    (channel,) = relay.ask_admin("/admin/v1/channels")[1]["channels"]
    assert (channel["name"], channel["models"]) == ("demo", {"demo-model": "demo-model"})
    assert relay.ask_admin("/admin/v1/channels/demo/drain", {})[1]["drained"] is True
    assert relay.ask_admin("/admin/v1/channels/demo/enable", {})[1]["drained"] is False
    assert relay.ask_admin("/admin/v1/channels/none/drain", {})[0] == 404
    until_status(relay, relay.key, 200)


def test_calls_are_in_the_log_and_in_the_usage(relay: Relay) -> None:
    relay.chat()
    until_s = time.monotonic() + 10
    while not (rows := relay.ask_admin("/admin/v1/logs?status=2xx&limit=5")[1]["logs"]):
        assert time.monotonic() < until_s
    assert (rows[0]["account"], rows[0]["model"]) == ("demo", "demo-model")
    shown = relay.ask_admin(f"/admin/v1/logs/{rows[0]['request_id']}")[1]
    assert "receipt" in shown
    (span,) = relay.ask_admin("/admin/v1/usage?by=day")[1]["usage"]
    assert span["requests"] >= 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/admin/v1/keys", {"account": "nobody"}, 404),
        ("/admin/v1/keys", {"acount": "demo"}, 400),
        ("/admin/v1/keys", {"account": "demo", "allow_ip": ["x"]}, 400),
        ("/admin/v1/keys", {"account": "demo", "quota_usd": "much"}, 400),
        ("/admin/v1/logs?status=x", None, 400),
        ("/admin/v1/logs?account=nobody", None, 404),
        ("/admin/v1/nothing", None, 404),
        ("/admin/v1/channels", {}, 405),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_json(
    relay: Relay, path: str, body: Any, status: int
) -> None:
    found, answer = relay.ask_admin(path, body)
    assert found == status
    assert answer["error"].keys() == {"message", "type", "code"}


def test_a_body_that_is_not_json_is_quoted_nowhere(relay: Relay) -> None:
    headers = {"Authorization": f"Bearer {relay.token}"}
    status, answer = request(relay.admin, "POST", "/admin/v1/keys", "{CANARY", headers)
    assert status == 400
    assert b"CANARY" not in answer


def test_a_killed_worker_is_replaced_at_once(relay: Relay) -> None:
    """Within a second where nothing else runs (test_supervisor has three tries for that)."""
    os.kill(relay.pids["worker-0"], signal.SIGKILL)
    killed_s = time.monotonic()
    assert request(relay.address, "HEAD", "/")[0] == 200
    assert time.monotonic() - killed_s < 4


def test_it_ends_with_all_it_started_and_the_next_run_has_the_same_key(
    relay: Relay, data_dir: Path
) -> None:
    relay.process.send_signal(signal.SIGTERM)
    assert relay.process.wait(PATIENCE_S) == 0
    assert all(gone_within(pid, 0) for pid in relay.pids.values())
    with running(data_dir) as second:
        assert second.key == relay.key
        assert second.chat()[0] == 200
        second.process.kill()
        assert all(gone_within(pid, 2) for pid in second.pids.values())
    with running(data_dir) as third:
        assert third.key == relay.key
        assert third.chat()[0] == 200
