"""Goal: of a first read it is seen at once whose call it is; what is unclear takes the usual way.

Method: requests as clients write them, as bytes.
"""

import json

import pytest

from relay.edge.overload.glance import Glance, glance_at, split_head
from relay.edge.overload.refusals import Refusals
from relay.model import Dialect
from relay.records import Endpoint

KEY = "Authorization: Bearer sk-Aa"
LENGTH = "Content-Length: 2"


def request(
    *lines: str, target: str = "/v1/chat/completions", method: str = "POST", body: bytes = b"{}"
) -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: relay", *lines])
    return f"{head}\r\n\r\n".encode() + body


def look(read: bytes) -> tuple[Glance | None, int]:
    split = split_head(read)
    return (glance_at(split[0]), split[1]) if split is not None else (None, 0)


@pytest.mark.parametrize(
    ("read", "found", "rest"),
    [
        (request(KEY, LENGTH), Glance("sk-Aa", "", Endpoint.CHAT, closes=False), 0),
        (
            request("authorization: bearer sk-Aa", "content-length: 3", "connection: close"),
            Glance("sk-Aa", "", Endpoint.CHAT, closes=True),
            -1,
        ),
        (
            request("X-Api-Key: sk-Aa", LENGTH, target="/v1/messages?beta=true", body=b"{}{}"),
            Glance("sk-Aa", "", Endpoint.MESSAGES, closes=False),
            2,
        ),
        (
            request(KEY, "x-api-key: relay_Bb", "X-Relay-Line: Fast", LENGTH),
            Glance("relay_Bb", "Fast", Endpoint.CHAT, closes=False),
            0,
        ),
    ],
)
def test_a_plain_call_is_seen(read: bytes, found: Glance, rest: int) -> None:
    assert look(read) == (found, rest)


@pytest.mark.parametrize(
    "read",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk-Aa\r\n",
        request(KEY),
        request(LENGTH),
        request(KEY, "Transfer-Encoding: chunked"),
        request(KEY, LENGTH, "Transfer-Encoding: chunked"),
        request(KEY, LENGTH, LENGTH),
        request(KEY, LENGTH, "content-length: 9"),
        request(KEY, "Content-Length: +2"),
        request(KEY, "Content-Length: 2, 2"),
        request(KEY, "Content-Length: 9999999999"),
        request(KEY, LENGTH, "A: b\nContent-Length: 9"),
        request(KEY, LENGTH, "A: b\r\n c"),
        request(KEY, LENGTH, method="GET", target="/v1/models"),
        request(KEY, LENGTH, target="/v1/nothing"),
        request(KEY, LENGTH, "Upgrade: websocket"),
        request(KEY, LENGTH, "Origin: https://page.example"),
        request(KEY, LENGTH, f"A: {'b' * 5_000}"),
        request(KEY, LENGTH).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(body=b"\r\nAuthorization: Bearer sk-Aa\r\nContent-Length: 2\r\n\r\n"),
        b"\x16\x03\x01\r\n\r\n",
    ],
)
def test_all_else_takes_the_usual_way(read: bytes) -> None:
    assert look(read)[0] is None


def test_heads_that_differ_in_their_length_alone_are_one() -> None:
    one, other = split_head(request(KEY, LENGTH)), split_head(request(KEY, "Content-Length: 999"))
    assert one is not None and other is not None
    assert one[0] == other[0]


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_prepared_no_is_a_503_of_its_dialect_and_renewed(
    dialect: Dialect, *, closing: bool
) -> None:
    refusals = Refusals()
    answer = refusals.answer(dialect, closing=closing)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 529 "))
    assert b"\r\nretry-after: " in head
    assert (b"\r\nConnection: close" in head) == closing
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body)
    assert "overloaded" in str(json.loads(body))
    assert refusals.answer(dialect, closing=closing) is answer
    refusals.renew()
    assert refusals.answer(dialect, closing=closing) != answer
