"""Goal: requests are signed as AWS signs them, and a wrong document is refused without quoting it.

Method: the published test suite of Signature Version 4 (awslabs/aws-c-auth, Apache-2.0): its key,
region, service and date, requests as they are signed, the signatures that it expects; and a head
of ours, signed and read again.
"""

import json
from pathlib import Path
from typing import Final

import msgspec
import pytest

from relay.model import Channel, Secret
from relay.reach import Auth, Reach
from relay.records import Endpoint
from relay.wire.http import request_head
from relay.wire.kinds.address import models_url, request_headers
from relay.wire.kinds.sigv4 import AwsKey, authorization, parse_key, sign_head

KEY = AwsKey(
    access_key_id="AKIDEXAMPLE",
    secret_access_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    region="us-east-1",
    service="service",
)
DOCUMENT = '{"access_key_id":"AKIDEXAMPLE","secret_access_key":"CANARY-secret"}'
NOW_S = 1_440_938_160.0  # 2015-08-30T12:36:00Z


VECTORS: Final = json.loads(Path(__file__).with_name("sigv4_vectors.json").read_text("ascii"))


def test_there_are_all_cases_but_those_of_a_service_that_takes_paths_as_they_stand() -> None:
    assert len(VECTORS) == 38 - 6  # S3's, with dots and double slashes left in


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "signature"),
    [vector[1:] for vector in VECTORS],
    ids=[vector[0] for vector in VECTORS],
)
def test_the_published_cases_are_signed_as_published(
    method: str, target: str, headers: dict[str, str], body: str, signature: str
) -> None:
    said = authorization(KEY, method, target, headers, body.encode())
    assert said == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={';'.join(sorted(headers))}, Signature={signature}"
    )


def channel(document: str = DOCUMENT) -> Channel:
    return Channel(
        id=1,
        name="c",
        base_url="https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1",
        api_key=Secret(document),
        models={"m": "m"},
        reach=Reach(auth=Auth.AWS),
    )


def test_a_head_of_ours_is_signed_and_never_carries_the_key() -> None:
    plain = request_head(channel(), Endpoint.CHAT) + b"2\r\nContent-Type: application/json\r\n\r\n"
    assert b"CANARY" not in plain and b"uthorization" not in plain
    signed = sign_head(channel(), plain, b"{}", NOW_S)
    assert signed.startswith(plain[:-2]) and signed.endswith(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in signed.split(b"\r\n")[1:-2])
    assert headers[b"x-amz-date"] == b"20150830T123600Z"
    key = parse_key(DOCUMENT, channel().base_url)
    assert (key.region, key.service) == ("eu-west-1", "bedrock")
    host = "bedrock-runtime.eu-west-1.amazonaws.com"
    wanted = {"host": host, "x-amz-date": "20150830T123600Z"}
    said = authorization(key, "POST", "/openai/v1/chat/completions", wanted, b"{}")
    assert headers[b"Authorization"].decode() == said
    other = sign_head(channel(), plain, b"{ }", NOW_S)
    assert other != signed, "the body is signed too"
    assert b"CANARY" not in signed


def test_a_session_token_is_sent_and_signed() -> None:
    document = DOCUMENT[:-1] + ',"session_token":"T0K"}'
    head = request_head(channel(document), Endpoint.CHAT) + b"2\r\n\r\n"
    signed = sign_head(channel(document), head, b"{}", NOW_S)
    assert b"x-amz-security-token: T0K\r\n" in signed
    assert b"SignedHeaders=host;x-amz-date;x-amz-security-token," in signed


def test_lists_of_models_are_not_asked_with_a_key_that_signs() -> None:
    assert models_url(channel()) == ""
    assert "CANARY" not in str(request_headers(channel()))


@pytest.mark.parametrize(
    ("document", "base_url"),
    [
        ("CANARY", "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        ('{"access_key_id":"CANARY"}', "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        (DOCUMENT, "https://proxy.example"),
        (DOCUMENT[:-1] + ',"more":1}', "https://bedrock-runtime.eu-west-1.amazonaws.com"),
    ],
)
def test_a_document_that_cannot_sign_is_refused(document: str, base_url: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_key(document, base_url)
    assert "CANARY" not in str(refused.value)


def test_other_hosts_take_region_and_service_from_the_document() -> None:
    document = msgspec.json.encode(
        {
            "access_key_id": "A",
            "secret_access_key": "B",
            "region": "us-east-2",
            "service": "bedrock-mantle",
        }
    ).decode()
    key = parse_key(document, "https://proxy.example")
    assert (key.region, key.service) == ("us-east-2", "bedrock-mantle")
    mantle = parse_key(DOCUMENT, "https://bedrock-mantle.us-west-2.api.aws/v1")
    assert (mantle.region, mantle.service) == ("us-west-2", "bedrock-mantle")
