"""Goal: our transport of TLS gives a protocol what its peer meant, whatever the wire does to it.

Method: OpenSSL's own server side, by hand, over a wire that a test cuts where it likes (Pair).
"""

import os
import ssl
from contextlib import suppress
from typing import Final

import pytest

from relay.upstream.tls import TlsPlace
from relay.upstream.tls_sending import TURN_BYTES
from tests.flow.tls_rig import VERSIONS, Pair, both

LONG_BYTES: Final = 8 << 20
TLS12: Final = VERSIONS[0]


@pytest.fixture(scope="module")
def long() -> bytes:
    return os.urandom(LONG_BYTES)


# --- records --------------------------------------------------------------------------------------


@both
async def test_hands_are_shaken_and_words_are_heard_in_reads_of_any_size(
    version: ssl.TLSVersion,
) -> None:
    for size in (1, 2, 3, 5, 7, 64, 1000):
        pair = Pair(version)
        pair.shake(size)
        await pair.shaken
        pair.over.write(b"question")
        assert pair.hear() == b"question"
        pair.deliver(pair.say(b"one", b"two" * 1000, b"three"), size)
        assert pair.heard.data == b"one" + b"two" * 1000 + b"three"


@both
async def test_records_may_be_cut_at_every_byte(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    words = (b"a", b"bc" * 40, b"def")
    size = len(pair.say(*words))
    pair = Pair(version)
    pair.shake()
    for at in range(1, size):
        raw = pair.say(*words)
        pair.heard.reads.clear()
        pair.deliver(raw[:at])
        before = len(pair.heard.reads)
        pair.deliver(raw[at:])
        assert pair.heard.data == b"".join(words), at
        assert before <= 1 and len(pair.heard.reads) - before == 1, at


@both
async def test_one_read_is_one_call_however_many_records_it_brings(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    for words in ([b"x"], [b"x"] * 500, [b"y" * 16_384] * 9, [b"", b"z", b"", b"z"]):
        pair.heard.reads.clear()
        raw = pair.say(*words)
        pair.deliver(raw, len(raw))
        assert pair.heard.reads == [b"".join(words)]


@both
async def test_the_end_of_a_long_record_brings_all_of_it(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"x" * 16_000)
    pair.deliver(raw[:-1], len(raw))
    assert pair.heard.data == b""
    pair.deliver(raw[-1:])
    assert pair.heard.reads == [b"x" * 16_000]


@both
async def test_what_comes_with_the_end_of_the_handshake_comes_after_it(
    version: ssl.TLSVersion,
) -> None:
    """In TLS 1.2 the server's is the last word, and its first one may come with it."""
    pair = Pair(version)
    heard: list[str] = []
    pair.heard.on_data = lambda data: heard.extend((*pair.heard.told, data.decode()))
    pair.begin()
    pair.listen()
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    pair.deliver(pair.take())
    assert pair.heard.told == ([] if version is TLS12 else ["made"])
    pair.listen()
    pair.peer.do_handshake()
    pair.deliver(pair.say(b"early"))
    assert heard == ["made", "early"]


# --- connections that share buffers ---------------------------------------------------------------


@both
async def test_connections_of_one_place_do_not_hear_each_other(version: ssl.TLSVersion) -> None:
    """One is opened, and one is written to, while another one is told something."""
    place = TlsPlace()
    pairs = [Pair(version, place=place) for _ in range(4)]
    pairs[0].shake()
    pairs[1].shake(10)
    began: list[Pair] = []

    def meanwhile(_: bytes) -> None:
        pair = Pair(version, place=place)
        pair.begin()
        began.append(pair)
        pairs[1].over.write(b"meanwhile")

    pairs[0].heard.on_data = meanwhile
    for size in (1, 7, 1000):
        raw = pairs[0].say(b"x" * 100, b"y" * 100)
        pairs[2].begin() if size == 1 else None
        pairs[0].deliver(raw, size)
    assert pairs[0].heard.data == (b"x" * 100 + b"y" * 100) * 3
    assert pairs[1].hear() == b"meanwhile" * len(began) and len(began) >= 3
    assert pairs[0].hear() == b""
    for pair in (*began, pairs[3]):
        if pair is pairs[3]:
            pair.begin()
        finish_shaking(pair)
        pair.over.write(b"mine")
        assert pair.hear() == b"mine"


def finish_shaking(pair: Pair) -> None:
    for _ in range(2):
        pair.listen()
        with suppress(ssl.SSLWantReadError):
            pair.peer.do_handshake()
        pair.deliver(pair.take())
    assert pair.heard.told == ["made"]


@both
async def test_what_fails_leaves_nothing_for_others(version: ssl.TLSVersion) -> None:
    place = TlsPlace()
    good, bad = Pair(version, place=place), Pair(version, place=place)
    good.shake()
    bad.shake()
    bad.deliver(b"\x17\x03\x03\x00\x20" + bytes(32) + b"and more of it" * 100)
    good.deliver(good.say(b"well"))
    await bad.heard.until_lost()
    assert isinstance(bad.heard.error, ssl.SSLError)
    assert good.heard.data == b"well" and good.heard.told == ["made"]


# --- ends -----------------------------------------------------------------------------------------


@both
async def test_a_peers_last_word_is_an_end_and_is_answered(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.unwrap()
    pair.deliver(raw + pair.take() + b"what nobody asked for")
    assert pair.heard.data == b"last words"
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "eof", "lost"] and pair.heard.error is None
    assert pair.wire.ended == "closed"
    pair.listen()
    pair.peer.unwrap()  # it has our close_notify: else this raises


@both
async def test_the_end_of_tcp_alone_is_a_cut(version: ssl.TLSVersion) -> None:
    pair = Pair(version)
    pair.shake()
    raw = pair.say(b"half of", b"it")
    pair.deliver(raw[:-1])
    assert not pair.over.eof_received()
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "lost"] and pair.heard.data == b"half of"
    assert isinstance(pair.heard.error, ssl.SSLEOFError)


@both
async def test_an_alert_in_mid_stream_is_told_behind_what_came_before(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    said = pair.say(b"before")
    pair.over.write(b"x" * 100)
    pair.wire.written[-1] ^= 1
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        pair.listen()
        pair.peer.read(100)
    pair.deliver(said + pair.take())
    assert pair.heard.data == b"before"
    await pair.heard.until_lost()
    assert isinstance(pair.heard.error, ssl.SSLError) and "ALERT" in str(pair.heard.error)
    assert "eof" not in pair.heard.told


@both
async def test_a_record_that_was_changed_ends_it_and_the_peer_is_told(
    version: ssl.TLSVersion,
) -> None:
    pair = Pair(version)
    pair.shake()
    good, bad = pair.say(b"good"), bytearray(pair.say(b"bad"))
    bad[-1] ^= 1
    pair.deliver(good + bytes(bad) + pair.say(b"never"))
    await pair.heard.until_lost()
    assert pair.heard.data == b"good" and isinstance(pair.heard.error, ssl.SSLError)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        pair.listen()
        pair.peer.read(100)


async def test_what_is_not_tls_is_refused_before_and_after_the_handshake() -> None:
    for begun in (False, True):
        pair = Pair()
        if begun:
            pair.shake()
        else:
            pair.begin()
        pair.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        if begun:
            await pair.heard.until_lost()
            assert isinstance(pair.heard.error, ssl.SSLError)
        else:
            with pytest.raises(ssl.SSLError):
                await pair.shaken
            assert pair.heard.told == []
        assert pair.wire.ended


async def test_who_garbles_and_takes_nothing_is_dropped_at_once() -> None:
    pair = Pair()
    pair.shake()
    pair.wire.takes_bytes = 10
    pair.over.write(b"x" * 100)
    pair.deliver(b"garbage, not TLS")
    assert pair.wire.ended == "aborted"
    await pair.heard.until_lost()


async def test_nothing_is_told_after_an_abort_but_the_end() -> None:
    pair = Pair()
    pair.shake()
    pair.heard.on_data = lambda _: pair.over.abort()
    raw = pair.say(b"one") + pair.say(b"two")
    half = len(raw) // 2
    pair.deliver(raw[:half] + raw[half:])
    pair.deliver(pair.say(b"three"))
    pair.over.write(b"four")
    pair.over.close()
    pair.over.pause_reading()
    assert pair.over.is_closing() and pair.wire.ended == "aborted"
    await pair.heard.until_lost()
    assert pair.heard.told == ["made", "lost"] and pair.heard.error is None
    assert pair.heard.data == b"onetwo" and pair.hear() == b""


async def test_a_socket_that_is_lost_is_told_with_its_error() -> None:
    pair = Pair()
    pair.shake()
    pair.over.connection_lost(ConnectionResetError())
    assert isinstance(pair.heard.error, ConnectionResetError)
    assert pair.over.get_write_buffer_size() == 0 and pair.over.get_extra_info("socket") is None
    shaking = Pair()
    shaking.begin()
    shaking.over.eof_received()
    with pytest.raises(ConnectionResetError):
        await shaking.shaken
    assert shaking.heard.told == []


# --- sending --------------------------------------------------------------------------------------


@both
async def test_of_what_waits_little_is_encrypted_ahead(
    version: ssl.TLSVersion, long: bytes
) -> None:
    pair = Pair(version)
    pair.shake()
    pair.wire.takes_bytes = 2 * TURN_BYTES
    pair.over.write(b"head")
    pair.over.write(long)
    pair.over.write(b"tail")
    assert pair.heard.told == ["made", "paused"]
    assert len(pair.wire.written) < 4 * TURN_BYTES
    assert len(long) < pair.over.get_write_buffer_size() < len(long) + TURN_BYTES
    heard = []
    while pair.over.get_write_buffer_size():
        heard.append(pair.hear())
        pair.wire.takes_bytes = TURN_BYTES
        pair.over.resume_writing()
    assert b"".join(heard) == b"head" + long + b"tail"
    assert pair.heard.told == ["made", "paused", "resumed"]
    assert pair.over._unsent is None


@both
async def test_what_was_written_is_sent_before_the_last_word(
    version: ssl.TLSVersion, long: bytes
) -> None:
    pair = Pair(version)
    pair.shake()
    pair.wire.takes_bytes = TURN_BYTES
    pair.over.write(long)
    pair.over.close()
    pair.over.close()
    assert pair.over.is_closing() and not pair.wire.ended and not pair.wire.reads
    heard = []
    while not pair.wire.ended:
        heard.append(pair.hear())
        pair.wire.takes_bytes = TURN_BYTES
        pair.over.resume_writing()
    heard.append(pair.hear())
    assert b"".join(heard) == long and pair.wire.ended == "closed"
    assert pair.peer.read(1) == b"" if version is TLS12 else True
    await pair.heard.until_lost()
    assert pair.heard.error is None
