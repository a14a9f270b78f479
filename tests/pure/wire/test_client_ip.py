"""The client's address: from the right, through trusted hops only, never what anybody may write."""

from ipaddress import ip_network

import pytest

from relay.wire.client_ip import client_ip

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", "1.2.3.4, junk", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, junk, 10.3.3.3", "10.3.3.3"),
        ("10.0.0.1", ",", "10.0.0.1"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("::ffff:203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("fe80::1%eth0", None, "fe80::1"),
        ("", "1.2.3.4", ""),
    ],
)
def test_walk(peer: str, forwarded: str | None, expected: str) -> None:
    assert client_ip(peer, forwarded, PROXIES) == expected


def test_without_proxies_the_peer_is_the_client() -> None:
    assert client_ip("10.0.0.1", "1.2.3.4", ()) == "10.0.0.1"
    assert client_ip("::ffff:10.0.0.1", "1.2.3.4", ()) == "10.0.0.1"
