"""Goal: of a first read it is seen at once whose call it is; what is unclear takes the usual way.

Method: requests as clients write them, as bytes.
"""

import json

import pytest

from relay.edge.screen import RawRequest, Refusals, look_at
from relay.errors import Unavailable
from relay.model import Dialect


def request(
    *lines: str, target: str = "/v1/chat/completions", method: str = "POST", body: bytes = b"{}"
) -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: relay", *lines])
    return f"{head}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (
            request("Authorization: Bearer sk-Aa", "Content-Length: 2"),
            RawRequest("sk-Aa", Dialect.OPENAI, whole=True),
        ),
        (
            request("authorization: bearer sk-Aa", "content-length:3"),
            RawRequest("sk-Aa", Dialect.OPENAI, whole=False),
        ),
        (
            request("X-Api-Key: sk-Aa", "Content-Length: 2", target="/v1/messages?beta=true"),
            RawRequest("sk-Aa", Dialect.ANTHROPIC, whole=True),
        ),
        (
            request(
                "x-goog-api-key: sk-Aa",
                "Transfer-Encoding: chunked",
                target="/v1beta/models/m:generateContent",
            ),
            RawRequest("sk-Aa", Dialect.GEMINI, whole=False),
        ),
    ],
)
def test_a_plain_call_is_seen(read: bytes, found: RawRequest) -> None:
    assert look_at(read) == found


KEY = "Authorization: Bearer sk-Aa"


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk-Aa\r\n",
        request("Content-Length: 2"),
        request(KEY, method="GET", target="/v1/models"),
        request(KEY, target="/v1/nothing"),
        request(KEY, "Upgrade: websocket"),
        request(KEY, "X-Relay-Line: fast"),
        request(KEY, "Origin: https://page.example"),
        request(body=b"\r\nAuthorization: Bearer sk-Aa\r\n\r\n"),
        b"\x16\x03\x01\r\n\r\n",
    ],
)
def test_all_else_takes_the_usual_way(read: bytes) -> None:
    assert look_at(read) is None


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_prepared_no_is_a_503_of_its_dialect_and_renewed(dialect: Dialect) -> None:
    refusals = Refusals(lambda: Unavailable("Too much.", retry_after_s=1.0))
    answer = refusals.answer(dialect)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 529 "))
    assert b"\r\nretry-after:" in head.lower() and b"\r\nConnection: close" in head
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body)
    assert "Too much." in str(json.loads(body))
    assert refusals.answer(dialect) is answer
    refusals.renew()
    assert refusals.answer(dialect) != answer
