"""AWS Signature Version 4: a request signed as it stands, without a library.

Only a request's head and body are needed, so whatever made them, they are signed last. What costs
(four HMACs) is kept for a day; a signature is one pass of SHA-256 over the body and one HMAC.

Source: AWS, "Create a signed AWS API request"; the published test suite of Signature Version 4.
"""

import hashlib
import hmac
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.model import Channel

ALGORITHM: Final = "AWS4-HMAC-SHA256"
_BEDROCK: Final = re.compile(r"(bedrock(?:-mantle)?)(?:-runtime)?\.([a-z]{2}[a-z0-9-]+)\.")
_PLAIN: Final = "-._~"


class AwsKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access key as its JSON document has it. `region`, `service`: "" = as the host says."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    region: str = ""
    service: str = ""

    def __repr__(self) -> str:
        return "AwsKey(…)"


def parse_key(document: str, base_url: str) -> AwsKey:
    """Return an access key with the region and service that it is for.

    Raises:
        ValueError: It is none, or nobody says for which region; no value is quoted.
    """
    try:
        key = Decoder(AwsKey).decode(document)
    except Undecodable:
        raise ValueError("not {access_key_id, secret_access_key, session_token, region}") from None
    if not (key.access_key_id and key.secret_access_key):
        raise ValueError("access_key_id and secret_access_key: missing")
    said = _BEDROCK.match(urlsplit(base_url).hostname or "")
    region = key.region or (said[2] if said else "")
    if not region:
        raise ValueError("region: the address does not say it")
    service = key.service or (said[1] if said else "bedrock")
    return msgspec.structs.replace(key, region=region, service=service)


def sign_head(channel: Channel, head: bytes, body: bytes, now_s: float) -> bytes:
    """Return a whole request head with the lines that sign it and its body.

    Args:
        channel: Whose credential signs.
        head: From its first line to the empty one.
        body: What goes behind it.
        now_s: Seconds since 1970.
    """
    key = _key_of(channel.api_key.reveal(), channel.base_url)
    first, _, rest = head.decode("latin-1").partition("\r\n")
    method, target, _ = first.split(" ")
    host = next(line[5:].strip() for line in rest.split("\r\n") if line[:5].lower() == "host:")
    stamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": host, "x-amz-date": stamp}
    if key.session_token:
        signed["x-amz-security-token"] = key.session_token
    lines = [f"{name}: {value}" for name, value in signed.items() if name != "host"]
    lines.append(f"Authorization: {authorization(key, method, target, signed, body)}")
    return head[:-2] + "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


def authorization(
    key: AwsKey, method: str, target: str, headers: dict[str, str], body: bytes
) -> str:
    """Return the header that signs a request.

    Args:
        key: With its region and service.
        method: GET, POST.
        target: Path and query, as they stand in the first line.
        headers: All that are signed, names in lower case; x-amz-date among them.
        body: Of the request.
    """
    stamp = headers["x-amz-date"]
    names = ";".join(sorted(headers))
    request = "\n".join(
        (
            method,
            _path(target.partition("?")[0]),
            _query(target.partition("?")[2]),
            *(f"{name}:{_folded(headers[name])}" for name in sorted(headers)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{key.region}/{key.service}/aws4_request"
    said = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    day_key = _day_key(key.secret_access_key, stamp[:8], key.region, key.service)
    signature = hmac.digest(day_key, said.encode(), hashlib.sha256).hex()
    return (
        f"{ALGORITHM} Credential={key.access_key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )


@lru_cache(maxsize=256)
def _key_of(document: str, base_url: str) -> AwsKey:
    return parse_key(document, base_url)


@lru_cache(maxsize=256)
def _day_key(secret: str, day: str, region: str, service: str) -> bytes:
    found = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        found = hmac.digest(found, part.encode(), hashlib.sha256)
    return found


def _path(path: str) -> str:
    """Return a path without dots and double slashes, encoded once more than it stands.

    AWS has it so everywhere but in S3.
    """
    kept: list[str] = []
    for part in path.split("/"):
        if part == ".." and kept:
            kept.pop()
        elif part not in ("", ".", ".."):
            kept.append(part)
    ending = "/" if kept and path.endswith(("/", "/.", "/..")) else ""
    return quote("/" + "/".join(kept) + ending, safe=f"/{_PLAIN}")


def _query(query: str) -> str:
    """Return a query ordered by names, then by values; what is encoded stays as it is."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    coded = [[quote(word, safe=f"%{_PLAIN}") for word in (pair[0], pair[2])] for pair in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(coded))


def _folded(value: Any) -> str:
    return " ".join(str(value).split())
