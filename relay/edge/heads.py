"""What a parsed head says that the parser itself does not judge."""

import re
from functools import lru_cache
from typing import Final

from relay.edge.asked import Head
from relay.edge.body import too_large
from relay.errors import BadRequest, NotImplementedHere, UnsupportedMedia

_HOST: Final = re.compile(r"[A-Za-z0-9._\-\[\]:]*")


def announced_bytes(message: Head, bytes_max: int) -> int:
    """Return what the body will take at most.

    Raises:
        TooLarge: CLIENT; it says so itself.
    """
    announced = message.headers.get("Content-Length")
    size = int(announced) if announced else (bytes_max if message.chunked else 0)
    if size > bytes_max:
        raise too_large(bytes_max)
    return size


def comes_again(message: Head) -> bool:
    """Tell whether the next request of the connection may have the same head."""
    headers = message.headers
    return not message.should_close and message.version == (1, 1) and "Expect" not in headers


def check_head(message: Head) -> None:
    """Refuse what the parser lets through and we do not speak.

    Raises:
        BadRequest: CLIENT; the version or the Host header is none.
        NotImplementedHere: CLIENT; an upgrade, or a transfer coding other than chunked.
        UnsupportedMedia: CLIENT; an encoded body.
    """
    headers = message.headers
    if message.version not in ((1, 1), (1, 0)):
        raise BadRequest("This relay speaks HTTP/1.1.")
    if message.upgrade:
        raise NotImplementedHere("Connections cannot be upgraded here.")
    if not _is_host(headers.get("Host", "")):
        raise BadRequest("The Host header is not a host name.")
    coding = headers.get("Transfer-Encoding")
    if coding is not None and coding.lower() != "chunked":
        raise NotImplementedHere("The only transfer coding taken is chunked.")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("Send the body without a content encoding.")


@lru_cache(maxsize=256)
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None
