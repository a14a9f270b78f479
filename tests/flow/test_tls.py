"""Goal: TLS keeps its promises on both sides: nothing weak, nothing cut, nothing left behind.

Method: a data plane whose upstreams speak TLS 1.2 or 1.3 over blocking sockets, so that a test says
whether a connection ends with a close_notify (as its peer means it) or without (as whoever cuts the
wire can end it); certificates that openssl makes for a test, each with one thing wrong with it.

What the standard library cannot do is not promised: it asks for no stapled answer of OCSP.
A context that was given an authority's list knows what is revoked.
"""

import asyncio
import gc
import os
import ssl
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import pytest

from relay.config import Config, Timeouts
from relay.errors import CertificateInvalid, ConnectFailed
from relay.model import Channel, PriceDetail, Snapshot
from relay.reach import Egress, Reach
from relay.tls import TlsFiles, TlsListeners
from relay.upstream.pool import UpstreamPool
from tests.flow.rig import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)
from tests.flow.tls_rig import AUTHORITY, VERSIONS, offering, speaking

JSON: Final = (
    b'{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)
UNFRAMED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
SIZED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SOUND: Final = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nConnection: close\r\n\r\n"
UNFRAMED_EVENTS: Final = SSE_HEAD.replace(b"Transfer-Encoding: chunked", b"Connection: close")
REFUSED: Final = b"HTTP/1.1 429 No\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}"
EVENTS: Final = event("one") + event("two")
ASKED: Final = post("/v1/chat/completions", chat())
ASKED_STREAM: Final = post("/v1/chat/completions", chat(stream=True))
ASKED_SOUND: Final = post("/v1/audio/speech", {"model": MODEL, "input": "hello", "voice": "alloy"})
CONNECTIONS: Final = 10_000
GROWTH_BYTES_MAX: Final = 4 << 20
AT_ONCE: Final = 20


def over_tls(*ports: int) -> Snapshot:
    """Return a catalog of channels whose upstreams are trusted, the first port first."""
    reach = Reach(egress=Egress(ca_file=str(AUTHORITY / "ca.pem")))
    return with_sound(
        [
            make_channel(n, port, base_url=f"https://localhost:{port}/v1", tier=n, reach=reach)
            for n, port in enumerate(ports, 1)
        ]
    )


def with_sound(channels: list[Channel]) -> Snapshot:
    """Return their catalog, with a price for sound too."""
    plain = make_snapshot(channels)
    detail = PriceDetail(character=1_000)
    price = msgspec.structs.replace(plain.prices[MODEL], detail=detail)
    return msgspec.structs.replace(plain, prices={MODEL: price})


async def told(raw: bytes, *ports: int) -> bytes:
    async with Rig(over_tls(*ports)) as rig:
        return await rig.say(raw)


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_versions_carry_answers_and_streams(version: ssl.TLSVersion) -> None:
    stream = SSE_HEAD + chunked(EVENTS) + chunked(FINISH + DONE) + b"0\r\n\r\n"
    with speaking(offering(version), SIZED % len(JSON) + JSON) as port:
        assert (await told(ASKED, port)).endswith(JSON)
    with speaking(offering(version), stream) as port:
        raw = await told(ASKED_STREAM, port)
        assert raw.endswith(b"0\r\n\r\n") and b"two" in raw and b"[DONE]" in raw


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_listener_speaks_both_versions_and_none_before_them(
    version: ssl.TLSVersion,
) -> None:
    files = TlsFiles(cert=str(AUTHORITY / "good.pem"), key=str(AUTHORITY / "key.pem"))
    client = ssl.create_default_context(cafile=AUTHORITY / "ca.pem")
    client.minimum_version = client.maximum_version = version
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    stream = SSE_HEAD + chunked(EVENTS) + chunked(FINISH + DONE) + b"0\r\n\r\n"
    with speaking(offering(version), stream) as port:
        config = Config(tls=TlsListeners(relay=files))
        async with Rig(over_tls(port), config) as rig:
            reader, writer = await asyncio.open_connection("localhost", rig.port, ssl=client)
            assert writer.get_extra_info("ssl_object").version() == version.name.replace(
                "v1_", "v1."
            )
            writer.write(ASKED_STREAM)
            raw = await reader.read()
            writer.close()
            assert raw.endswith(b"0\r\n\r\n") and b"two" in raw
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("localhost", rig.port, ssl=old)


# --- truncation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_sound_that_is_cut_goes_to_another_channel(version: ssl.TLSVersion) -> None:
    """Nothing but the end of its connection ends such an answer, and that can be forged."""
    with (
        speaking(offering(version), SOUND + b"half", notifies=False) as cut,
        speaking(offering(version), SOUND + b"the whole") as whole,
    ):
        raw = await told(ASKED_SOUND, cut, whole)
        assert raw.endswith(b"\r\n\r\nthe whole")
        raw = await told(ASKED_SOUND, cut)
        assert raw.startswith(b"HTTP/1.1 502 ") and b"half" not in raw


@pytest.mark.parametrize("version", VERSIONS)
async def test_sound_that_was_begun_and_is_cut_does_not_end_well(version: ssl.TLSVersion) -> None:
    long = bytes(2_000_000)
    with speaking(offering(version), SOUND + long, notifies=False) as port:
        raw = await told(ASKED_SOUND, port)
    assert raw.startswith(b"HTTP/1.1 200 ") and not raw.endswith(b"0\r\n\r\n")
    with speaking(offering(version), SOUND + long) as port:
        assert (await told(ASKED_SOUND, port)).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("head", [SSE_HEAD, UNFRAMED_EVENTS])
async def test_a_stream_that_is_cut_ends_with_an_error(
    version: ssl.TLSVersion, head: bytes
) -> None:
    frame = chunked if head is SSE_HEAD else bytes
    with speaking(offering(version), head + frame(EVENTS), notifies=False) as port:
        raw = await told(ASKED_STREAM, port)
    assert b"two" in raw and b'"error"' in raw and b"[DONE]" not in raw
    # One that had said its last word is whole, whoever closed the connection behind it.
    said = head + frame(EVENTS) + frame(FINISH + DONE)
    with speaking(offering(version), said, notifies=False) as port:
        raw = await told(ASKED_STREAM, port)
    assert b'"error"' not in raw and b"[DONE]" in raw


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("head", [UNFRAMED, SIZED % len(JSON)])
async def test_json_that_is_cut_is_no_answer(version: ssl.TLSVersion, head: bytes) -> None:
    for kept in (len(JSON) - 1, len(JSON) // 2, 1, 0):
        with speaking(offering(version), head + JSON[:kept], notifies=False) as port:
            raw = await told(ASKED, port)
        assert raw.startswith(b"HTTP/1.1 502 "), kept
    with speaking(offering(version), head + JSON, notifies=False) as port:
        assert (await told(ASKED, port)).endswith(JSON), "whole to its last brace"


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_a_refusal_says_is_heard_however_it_ends(version: ssl.TLSVersion) -> None:
    with speaking(offering(version), REFUSED, notifies=False) as port:
        assert (await told(ASKED, port)).startswith(b"HTTP/1.1 429 ")


async def test_without_tls_the_end_of_a_connection_still_ends_an_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SOUND + b"the whole")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = make_channel(1, server.sockets[0].getsockname()[1])
    async with Rig(with_sound([channel])) as rig:
        assert (await rig.say(ASKED_SOUND)).endswith(b"\r\n\r\nthe whole")
    server.close()


# --- certificates ---------------------------------------------------------------------------------


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Issuer:
    """An authority of a test's own, with one thing wrong with what it signs."""

    def __init__(self, folder: Path, key: str = "rsa:2048") -> None:
        self._folder = folder
        self.file = folder / "ca.pem"
        self._key = folder / "ca.key"
        openssl(
            *("req", "-x509", "-newkey", key, "-nodes", "-days", 2, "-subj", "/CN=issuer"),
            *("-keyout", self._key, "-out", self.file),
        )

    def issue(self, key: str = "rsa:2048", digest: str = "sha256") -> Path:
        """Return a file with a key and a certificate for localhost."""
        place, names = self._folder / "leaf.pem", self._folder / "names"
        request, signed = self._folder / "leaf.csr", self._folder / "leaf.crt"
        names.write_text("subjectAltName=DNS:localhost")
        openssl(
            *("req", "-newkey", key, "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", place, "-out", request),
        )
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key, "-days", 1),
            *(f"-{digest}", "-extfile", names, "-out", signed),
        )
        place.write_text(place.read_text() + signed.read_text())
        return place

    def revoke(self, certificate: Path) -> None:
        """Put a list beside the authority's certificate that has this one on it."""
        book, config = self._folder / "book", self._folder / "book.conf"
        book.touch()
        (self._folder / "number").write_text("01\n")
        config.write_text(
            f"[ca]\ndefault_ca=one\n[one]\ndatabase={book}\ncrlnumber={self._folder / 'number'}\n"
            "default_md=sha256\ndefault_crl_days=2\n"
        )
        asked = ("ca", "-config", config, "-cert", self.file, "-keyfile", self._key)
        openssl(*asked, "-revoke", certificate)
        listed = self._folder / "crl.pem"
        openssl(*asked, "-gencrl", "-out", listed)
        self.file.write_text(self.file.read_text() + listed.read_text())


def weakly(certificate: Path) -> ssl.SSLContext:
    """Return a server that shows it, as servers do whose library minds nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(certificate)
    return context


async def refusal_of(server: ssl.SSLContext, client: ssl.SSLContext) -> ConnectFailed:
    with speaking(server) as port:
        pool = UpstreamPool(Timeouts(), client)
        with pytest.raises(ConnectFailed) as caught:
            await pool.dial(make_channel(1, port, base_url=f"https://localhost:{port}/v1"))
        assert pool.open_count == 0
        return caught.value


@pytest.mark.parametrize(
    ("authority", "key", "digest", "words"),
    [
        ("rsa:2048", "rsa:1024", "sha256", "has a key that is too short"),
        ("rsa:1024", "rsa:2048", "sha256", "comes from an authority whose key is too short"),
        ("rsa:2048", "rsa:2048", "sha1", "is signed by way of a digest that is broken"),
        ("rsa:2048", "rsa:2048", "md5", "is signed by way of a digest that is broken"),
    ],
)
async def test_what_is_weak_is_not_trusted(
    tmp_path: Path, authority: str, key: str, digest: str, words: str
) -> None:
    issuer = Issuer(tmp_path, authority)
    shown = weakly(issuer.issue(key, digest))
    error = await refusal_of(shown, ssl.create_default_context(cafile=issuer.file))
    assert isinstance(error, CertificateInvalid), error
    assert (error.flaw, error.message) == ("weak", f"The upstream's TLS certificate {words}.")


async def test_weak_ciphers_are_not_agreed_to() -> None:
    weak = offering(ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("aNULL:@SECLEVEL=0")
    error = await refusal_of(weak, ssl.create_default_context(cafile=AUTHORITY / "ca.pem"))
    assert error.message == "The upstream did not agree to speak TLS."


async def test_a_certificate_on_its_authoritys_list_is_revoked(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    certificate = issuer.issue()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    issuer.revoke(certificate)
    trust = ssl.create_default_context(cafile=issuer.file)
    trust.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    error = await refusal_of(served, trust)
    assert isinstance(error, CertificateInvalid)
    assert (error.flaw, error.message) == ("revoked", "The upstream's TLS certificate was revoked.")


# --- growth ---------------------------------------------------------------------------------------


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("version", VERSIONS)
async def test_10_000_connections_come_and_go_and_leave_nothing(version: ssl.TLSVersion) -> None:
    """Both of our sides at once: what a pool dials is a listener of the relay itself."""
    files = TlsFiles(cert=str(AUTHORITY / "good.pem"), key=str(AUTHORITY / "key.pem"))
    trust = ssl.create_default_context(cafile=AUTHORITY / "ca.pem")
    trust.minimum_version = trust.maximum_version = version
    async with Rig(
        make_snapshot([make_channel(1, 1)]), Config(tls=TlsListeners(relay=files))
    ) as rig:
        pool = UpstreamPool(Timeouts(), trust)
        channel = make_channel(1, rig.port, base_url=f"https://localhost:{rig.port}/v1")

        async def come_and_go(count: int) -> None:
            for at in range(count // AT_ONCE):
                made = await asyncio.gather(*(pool.dial(channel) for _ in range(AT_ONCE)))
                for one in made:
                    assert one.usable
                if at % 2:
                    pool.close()  # without a close_notify
                else:
                    for one in made:
                        assert one._transport is not None
                        one._transport.close()
                async with asyncio.timeout(10):
                    while pool.open_count:
                        await asyncio.sleep(0.001)

        await come_and_go(CONNECTIONS // 5)
        await asyncio.sleep(0.2)
        before, files_before = resident_bytes(), open_files()
        await come_and_go(CONNECTIONS)
        async with asyncio.timeout(10):
            while open_files() > files_before or len(rig.server._handshakes):
                await asyncio.sleep(0.01)
        assert resident_bytes() - before < GROWTH_BYTES_MAX
        pool.close()
