"""Goal: TLS ends at the listener itself where wanted, and new certificates drop nobody.

Method: a real relay with certificates of an authority made for the test; a stream runs while they
are replaced, broken and mended. The same relay behind a balancer that speaks the PROXY protocol,
and strangers who speak it too.
"""

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import Host
from tests.live.relay_process import PATIENCE_S, question, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady"]
[[line]]
name = "town"
channels = ["mock"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "1"
output = "2"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


class Authority:
    """Makes certificates for 127.0.0.1, and for clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder / "ca.pem")
        self._key = str(folder / "ca.key")
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=authority", "-keyout", self._key, "-out", self.file),
        )

    def issue(self, name: str, at: str) -> None:
        """Put NAME's certificate and key to AT.pem and AT.key, in this order."""
        place = str(self.folder / at)
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", f"{place}.key", "-out", f"{place}.csr"),
        )
        extension = self.folder / "san"
        extension.write_text("subjectAltName=IP:127.0.0.1")
        openssl(
            *("x509", "-req", "-in", f"{place}.csr", "-CA", self.file, "-CAkey", self._key),
            *("-days", "1", "-extfile", str(extension), "-out", f"{place}.pem"),
        )


@pytest.fixture
def authority(reachable: Path) -> Authority:
    folder = Path(tempfile.mkdtemp(prefix="tls-", dir=reachable))
    folder.chmod(0o755)
    found = Authority(folder)
    found.issue("first", "server")
    found.issue("client", "client")
    return found


@pytest.fixture
async def plain(
    authority: Authority, empty_database_url: str, servers: Embedded
) -> AsyncIterator[Host]:
    """A host that was not started yet."""
    host = Host(authority.folder / "host", None, workers=1)
    host.environ["RELAY_DATABASE__URL"] = empty_database_url
    host.environ["RELAY_REDIS__URL"] = servers.redis_url
    yield host
    await host.end()


async def configure(host: Host, folder: Path, toml: str) -> None:
    path = folder / "relay.toml"
    path.write_text(toml)
    host.environ["RELAY_CONFIG"] = str(path)
    await host.begin()


async def key_of(host: Host, upstream: str) -> str:
    await host.apply(CATALOG.format(upstream=upstream))
    made = await host.api("keys", {"account": "folk", "name": "k"})
    key: str = made["key"]
    return key


def client_context(authority: Authority, *, client: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if client:
        context.load_cert_chain(authority.folder / "client.pem", authority.folder / "client.key")
    return context


async def connect(
    host: Host, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name, _, port = host.address.rpartition(":")
    return await asyncio.open_connection(name, int(port), ssl=context)


async def call(host: Host, context: ssl.SSLContext | None, key: str, lead: bytes = b"") -> str:
    """Return the status line that GET /v1/models gets; "" where the connection was cut."""
    try:
        reader, writer = await connect(host, context)
        request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        writer.write(lead + request.encode() + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
    except (OSError, ssl.SSLError):
        return ""
    return answer.partition(b"\r\n")[0].decode()


async def subject(host: Host, authority: Authority) -> str:
    """Return whose certificate a new connection is shown."""
    _, writer = await connect(host, client_context(authority, client=True))
    shown: Any = writer.get_extra_info("peercert")
    writer.close()
    return str(dict(pair[0] for pair in shown["subject"])["commonName"])


async def test_a_certificate_is_replaced_under_a_running_stream(
    plain: Host, authority: Authority, upstream: str
) -> None:
    folder = authority.folder
    await configure(
        plain,
        folder,
        f"""[tls.relay]
cert = "{folder}/server.pem"
key = "{folder}/server.key"
client_ca = "{authority.file}"
""",
    )
    key = await key_of(plain, upstream)
    context = client_context(authority, client=True)

    async def served() -> bool:
        return await call(plain, context, key) == "HTTP/1.1 200 OK"

    await until_told(served, "the key is known")
    reader, writer = await connect(plain, context)
    tls = writer.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "http/1.1"
    assert tls.version() in ("TLSv1.2", "TLSv1.3")
    body = str(question(max_tokens=250, stream=True)).replace("'", '"').replace("True", "true")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    await reader.readuntil(b"data: ")

    # A half of a new pair is not taken; the whole of it is, by new connections.
    authority.issue("second", "next")
    (folder / "next.pem").replace(folder / "server.pem")

    async def complained() -> bool:
        return plain.said("the new certificate is not taken")

    await until_told(complained, "it says that certificate and key are not of one pair")
    assert await subject(plain, authority) == "first"
    (folder / "next.key").replace(folder / "server.key")

    async def renewed() -> bool:
        return await subject(plain, authority) == "second"

    await until_told(renewed, "new connections see the new certificate")
    async with asyncio.timeout(PATIENCE_S):
        rest = b""
        while b"data: [DONE]\n\n" not in rest:
            part = await reader.read(65_536)
            assert part, "the stream was cut"
            rest += part
    assert rest.count(b"data: ") > 200
    writer.close()

    assert await call(plain, client_context(authority, client=False), key) == "", "no certificate"
    assert await call(plain, None, key) == "", "in the clear"
    assert await served()


async def test_a_balancer_tells_who_the_client_is_and_nobody_else_can(
    plain: Host, authority: Authority, upstream: str
) -> None:
    await configure(
        plain,
        authority.folder,
        '[server]\nproxy_protocol = true\ntrusted_proxies = ["127.0.0.1/32"]\n',
    )
    key = await key_of(plain, upstream)
    told = b"PROXY TCP4 203.0.113.7 127.0.0.1 5 6\r\n"

    async def served() -> bool:
        return await call(plain, None, key, told) == "HTTP/1.1 200 OK"

    await until_told(served, "the key is known")
    await plain.api("keys", {"account": "folk", "name": "near", "allow_ip": ["203.0.113.0/24"]})
    near = await plain.api("keys", {"account": "folk", "name": "n2", "allow_ip": ["198.51.100.9"]})

    async def known() -> bool:
        other = b"PROXY TCP4 198.51.100.9 127.0.0.1 5 6\r\n"
        return await call(plain, None, near["key"], other) == "HTTP/1.1 200 OK"

    await until_told(known, "a key for one address is served from there")
    assert (await call(plain, None, near["key"], told)).split(" ")[1] in ("401", "403")
    assert await call(plain, None, key) == "", "without a header it is cut"
    assert await call(plain, None, key, b"PROXY UNKNOWN\r\n") == "HTTP/1.1 200 OK"

    # From an address that is no balancer's nothing of it is believed.
    plain.environ["RELAY_SERVER__TRUSTED_PROXIES"] = "192.0.2.0/24"
    await plain.stop()
    await plain.begin()
    assert await call(plain, None, key, told) == ""
