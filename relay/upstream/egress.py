"""The way out to an upstream where it is not the plain one: a proxy, a CA or a certificate of ours.

    socket --(CONNECT or SOCKS5 through a proxy)--> upstream --TLS as the channel has it--> bytes

A proxy sees the upstream's host and port; a name is resolved by the proxy, not by us.

Source: RFC 9110, section 9.3.6 (CONNECT); RFC 1928 (SOCKS5).
"""

import asyncio
import re
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from relay.errors import ConnectFailed
from relay.reach import Egress

HEAD_BYTES_MAX: Final = 16 * 1024
"""Of a proxy's answer to CONNECT."""
SOCKS_VERSION: Final = 5
_NO_LOGIN: Final = 0
_BY_NAME: Final = 3
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_SOCKS_TAIL: Final = {1: 4, 4: 16}
"""By kind of address: its length."""


def make_context(egress: Egress) -> ssl.SSLContext:
    """Return the TLS context of a channel: its CA's and no other's, its certificate.

    Raises:
        ConnectFailed: A file cannot be read, or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=egress.ca_file or None)
        if egress.cert_file:
            context.load_cert_chain(egress.cert_file, egress.key_file or None)
    except (OSError, ssl.SSLError):
        raise ConnectFailed("The channel's CA or certificate cannot be read.") from None
    return context


def proxy_address(egress: Egress) -> tuple[str, int]:
    """Return host and port of a channel's proxy."""
    url = urlsplit(egress.proxy)
    return url.hostname or "", url.port or (1080 if url.scheme == "socks5" else 80)


async def pass_proxy(sock: socket.socket, egress: Egress, host: str, port: int) -> None:
    """Have a proxy connect a socket to an upstream; closes it where it will not.

    Raises:
        ConnectFailed: It will not.
        OSError: It does not answer.
    """
    try:
        if egress.proxy.startswith("socks5"):
            await _pass_socks(sock, host, port)
        else:
            await _pass_http(sock, host, port)
    except BaseException:
        sock.close()
        raise


async def _pass_http(sock: socket.socket, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # A byte at a time: what comes behind the empty line is the upstream's.
        more = await loop.sock_recv(sock, 1)
        if not more or len(head) > HEAD_BYTES_MAX:
            raise ConnectFailed("The channel's proxy did not answer.")
        head += more
    found = _STATUS.match(head)
    if found is None or not found[1].startswith(b"2"):
        status = found[1].decode() if found else "?"
        raise ConnectFailed(f"The channel's proxy refused the connection ({status}).")


async def _pass_socks(sock: socket.socket, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, bytes([SOCKS_VERSION, 1, _NO_LOGIN]))
    if await _read(sock, 2) != bytes([SOCKS_VERSION, _NO_LOGIN]):
        raise ConnectFailed("The channel's proxy wants a login.")
    name = host.encode("ascii")
    said = bytes([SOCKS_VERSION, 1, 0, _BY_NAME, len(name)]) + name + port.to_bytes(2, "big")
    await loop.sock_sendall(sock, said)
    _, reply, _, kind = await _read(sock, 4)
    if reply != 0:
        raise ConnectFailed(f"The channel's proxy refused the connection ({reply}).")
    tail = _SOCKS_TAIL.get(kind)
    await _read(sock, (tail if tail is not None else (await _read(sock, 1))[0]) + 2)


async def _read(sock: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes.

    Raises:
        ConnectFailed: The proxy hung up before.
    """
    found = b""
    while len(found) < size:
        more = await asyncio.get_running_loop().sock_recv(sock, size - len(found))
        if not more:
            raise ConnectFailed("The channel's proxy did not answer.")
        found += more
    return found
