"""Goal: an upstream whose certificate is no good is told apart from one that is not there.

Method: TLS servers with certificates made for it (certificates/: an authority, one that expired,
one for other.example), asked through the pool as a channel would be.
"""

import asyncio
import ssl
from pathlib import Path

import pytest

from relay.config import Timeouts
from relay.errors import CertificateInvalid, ConnectFailed
from relay.upstream.pool import UpstreamPool
from tests.flow.rig import make_channel

HERE = Path(__file__).parent / "certificates"


async def refusal_of(
    server_tls: ssl.SSLContext | None, client_tls: ssl.SSLContext
) -> ConnectFailed:
    """Return why a server could not be connected to."""

    async def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"not TLS\n")
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    pool = UpstreamPool(Timeouts(), client_tls)
    channel = make_channel(1, port, base_url=f"https://localhost:{port}/v1")
    try:
        with pytest.raises(ConnectFailed) as caught:
            await pool.dial(channel)
    finally:
        server.close()
        pool.close()
    return caught.value


def serving(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(HERE / f"{name}.pem")
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(HERE / "ca.pem"))


@pytest.mark.parametrize(
    ("name", "said"), [("expired", "has expired"), ("other", "is for another host name")]
)
async def test_what_is_wrong_with_a_certificate_is_said(name: str, said: str) -> None:
    error = await refusal_of(serving(name), trusting())
    assert isinstance(error, CertificateInvalid)
    assert error.message == f"The upstream's TLS certificate {said}."
    assert error.code == "upstream_certificate"


async def test_an_authority_that_nobody_knows_is_said() -> None:
    error = await refusal_of(serving("other"), ssl.create_default_context())
    assert isinstance(error, CertificateInvalid)
    assert "comes" in error.message and "authority" in error.message


async def test_a_server_that_speaks_no_tls_is_told_apart() -> None:
    error = await refusal_of(None, trusting())
    assert not isinstance(error, CertificateInvalid)
    assert error.message == "The upstream did not agree to speak TLS."
