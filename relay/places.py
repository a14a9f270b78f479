"""Where and when, as settings write it: addresses to listen on, and windows of the day."""

import re


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[::1]:8080" for IPv6; port 0 = any free one).

    Raises:
        ValueError: No host, or no port in 0-65535.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host):
        raise ValueError("not HOST:PORT")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("not HOST:PORT with a port in 0-65535")
    return bare, int(port)


def check_window(window: str) -> None:
    """Refuse what is not HH:MM-HH:MM.

    Raises:
        ValueError: It is not, or its ends are one.
    """
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", window)
    if match is None or match.group(1, 2) == match.group(3, 4):
        raise ValueError
