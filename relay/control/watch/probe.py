"""One real question to an upstream: are its address, its certificate and our credential good?

GET {base_url}/models costs nothing at any provider. No redirect is followed, so the credential
goes nowhere else; of the answer only the status and the model names are looked at.
"""

import http.client
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.model import Channel
from relay.wire.kinds.address import models_url, request_headers

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""OpenRouter's list of several hundred models, the longest known, is about 1 MB."""


class ProbeFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found. `status` 0: no answer. `missing`: mapped models that are not listed."""

    channel: str
    ok: bool
    status: int
    total_ms: int
    reason: str
    missing: list[str]


class _Named(msgspec.Struct):
    id: str = ""
    name: str = ""  # Gemini's: "models/NAME"


class _Listing(msgspec.Struct):
    data: list[_Named] = []
    models: list[_Named] = []


_listing = Decoder(_Listing)


def probe(channel: Channel) -> ProbeFinding:
    """Ask a channel's upstream for its models and judge the answer."""
    if not models_url(channel):
        return _unlisted(channel)
    began_s = time.monotonic()
    status, body, reason = 0, b"", ""
    try:
        status, body = _get(channel)
    except OSError as error:
        reason = f"no answer: {error}"
    except http.client.HTTPException as error:
        reason = f"what it answers is not HTTP ({type(error).__name__})"
    listed = _names(body) if status == http.client.OK else set()
    return ProbeFinding(
        channel=channel.name,
        ok=status == http.client.OK,
        status=status,
        total_ms=round((time.monotonic() - began_s) * 1000),
        reason=reason or _reason(status),
        missing=sorted(set(channel.models.values()) - listed) if listed else [],
    )


def _unlisted(channel: Channel) -> ProbeFinding:
    return ProbeFinding(
        channel=channel.name,
        ok=False,
        status=0,
        total_ms=0,
        reason="its models cannot be listed: only a call can tell",
        missing=[],
    )


def _get(channel: Channel) -> tuple[int, bytes]:
    url = urlsplit(models_url(channel))
    assert url.hostname is not None
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        trust = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=TIMEOUT_S, context=trust
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=TIMEOUT_S)
    try:
        headers = {"accept": "application/json", **request_headers(channel)}
        connection.request("GET", url._replace(scheme="", netloc="").geturl(), headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX)
    finally:
        connection.close()


def _names(body: bytes) -> set[str]:
    try:
        listing = _listing.decode(body)
    except Undecodable:
        return set()
    named = [*listing.data, *listing.models]
    return {(model.id or model.name).removeprefix("models/") for model in named} - {""}


def _reason(status: int) -> str:
    match status:
        case http.client.OK:
            return "ok"
        case 401 | 403:
            return "the credential is not accepted"
        case 404:
            return "no model list there: is the base_url right?"
    return f"answered {status}"
