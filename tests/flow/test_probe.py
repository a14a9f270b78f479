"""Goal: `relay channel test` judges any upstream without harm and never follows or shows more.

Method: a raw TCP server on a thread that answers what a test says, and keeps what it was asked.
"""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from relay.control.watch.probe import probe
from relay.model import Channel, Dialect, Secret
from relay.wire.kinds.address import request_headers

Serve = Callable[[bytes], Channel]


def make_channel(port: int, *, scheme: str = "http", protocol: str = "openai") -> Channel:
    return Channel(
        id=1,
        name="a",
        base_url=f"{scheme}://127.0.0.1:{port}/v1",
        api_key=Secret("sk-1"),
        models={"m": "m", "fast": "m-1"},
        protocol=Dialect(protocol),
    )


@pytest.fixture
def asked() -> list[bytes]:
    """Heads of the requests that came in."""
    return []


@pytest.fixture
def serve(asked: list[bytes]) -> Iterator[Serve]:
    """Serve one connection with the given bytes and return a channel that leads there."""
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> Channel:
        listener = socket.create_server(("127.0.0.1", 0))

        def answer_one() -> None:
            with listener, listener.accept()[0] as client:
                asked.append(client.recv(65536))
                client.sendall(answer)

        threads.append(threading.Thread(target=answer_one))
        threads[-1].start()
        return make_channel(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join()


def http(status: str, body: str = "", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{head}\r\n{body}".encode()


def test_good_channel(serve: Serve, asked: list[bytes]) -> None:
    found = probe(serve(http("200 OK", '{"data": [{"id": "m"}, {"id": "m-1"}]}')))
    assert (found.ok, found.status, found.reason, found.missing) == (True, 200, "ok", [])
    assert asked[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization: Bearer sk-1\r\n" in asked[0]


@pytest.mark.parametrize(
    ("answer", "reason", "missing"),
    [
        (http("200 OK", '{"models": [{"name": "models/m-1"}]}'), "ok", ["m"]),
        (http("200 OK", "<html>"), "ok", []),
        (http("401 No"), "the credential is not accepted", []),
        (http("404 No"), "no model list there: is the base_url right?", []),
        (http("302 Go", head="location: http://127.0.0.1:1/\r\n"), "answered 302", []),
        (b"nonsense\r\n\r\n", "what it answers is not HTTP (BadStatusLine)", []),
    ],
)
def test_answers(serve: Serve, answer: bytes, reason: str, missing: list[str]) -> None:
    found = probe(serve(answer))
    assert (found.reason, found.missing) == (reason, missing)
    assert found.ok == (reason == "ok")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = probe(make_channel(port))
    assert (found.ok, found.status) == (False, 0)
    assert found.reason.startswith("no answer: ")


def test_tls_is_spoken_where_the_url_says_so(serve: Serve, asked: list[bytes]) -> None:
    plain = serve(http("200 OK"))
    found = probe(make_channel(int(plain.base_url.split(":")[2][:-3]), scheme="https"))
    assert found.reason.startswith("no answer: [SSL")
    assert b"sk-1" not in asked[0]


@pytest.mark.parametrize(
    ("protocol", "header"),
    [("openai", "authorization"), ("anthropic", "x-api-key"), ("gemini", "x-goog-api-key")],
)
def test_credential_in_the_dialect(protocol: str, header: str) -> None:
    assert "sk-1" in request_headers(make_channel(1, protocol=protocol))[header]


def test_no_credential_no_header() -> None:
    channel = Channel(id=1, name="a", base_url="http://a", api_key=Secret(""), models={})
    assert request_headers(channel) == {}
