"""Goal: a provider's words reach a client as they are, without what names the account that asked.

Method: sentences as providers write them, whose secret part is marked, and plain words beside them.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.refusals.identity import REMOVED, known_by, without_identity
from tests.flow.rig import make_channel

GONE = REMOVED.decode()


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (
            "Incorrect API key provided: sk-proj-abcdefgh1234**5678.",
            f"Incorrect API key provided: {GONE}",
        ),
        (
            "for gpt-4o in organization org-AbCdEf123456 on tokens",
            f"for gpt-4o in organization {GONE} on tokens",
        ),
        ("Project `proj_AbCdEf123456` does not", f"Project `{GONE}` does not"),
        (
            "Team: 1a2b-3c, API key ID: 9f8e-7d, Model: grok-4",
            f"Team: {GONE} API key ID: {GONE} Model: grok-4",
        ),
        (
            "Model `projects/my-proj-1/locations/us` not found",
            f"Model `projects/{GONE}/locations/us` not found",
        ),
        ("arn:aws:bedrock:us-east-1:123456789012:model/x is", f"{GONE} is"),
        ("consumer project 123456789012 has", f"consumer project {GONE} has"),
        ("https://my-firm.openai.azure.com/openai", f"https://{GONE}/openai"),
        ("connect to 10.1.2.3:8000 failed", f"connect to {GONE} failed"),
        ("Bearer abcdefghijklmnop is", f"{GONE} is"),
        ("key gsk_abcdefghijklmnop0123 is", f"key {GONE} is"),
    ],
)
def test_what_names_the_account_is_taken_out(said: str, left: str) -> None:
    found = without_identity(said.encode()).decode()
    assert found.replace(f"{GONE},", GONE) == left


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 128000 tokens. However, you requested 130000.",
        "Unsupported value: 'messages[0].content[1].image_url'. See https://platform.openai.com/docs",
        "prompt is too long: 200123 tokens > 200000 maximum",
        "user_id is required; project must be a string; org-wide; task_force; risk-free",
        "version 10.15.7 of macOS, at 8.8.8.8",
        "prompt_cache_key must be at most 64 characters",
        "tool call id call_AbCdEf1234567890 of resp_AbCdEf1234567890 not found",
    ],
)
def test_plain_words_stay_as_they_are(said: str) -> None:
    assert without_identity(said.encode()).decode() == said


def test_fields_that_name_an_account_are_emptied() -> None:
    body = b'{"error":{"message":"m","code":400},"user_id":"user_x", "org_id" : "a\\"b"}'
    assert json.loads(without_identity(body)) == {
        "error": {"message": "m", "code": 400},
        "user_id": GONE,
        "org_id": GONE,
    }


def test_the_channels_own_key_and_host_are_taken_out() -> None:
    channel = make_channel(1, 4711)
    said = f"no {channel.api_key.reveal()} at http://127.0.0.1:4711/v1".encode()
    left = without_identity(said, known_by(channel))
    assert b"4711" not in left and b"127.0.0.1" not in left


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=60), max_size=4), st.text(max_size=9))
def test_json_stays_json(body: dict[str, str], secret: str) -> None:
    plain = secret.isalnum() and secret.isascii()
    for said in (json.dumps(body), json.dumps(body, ensure_ascii=False)):
        json.loads(without_identity(said.encode("utf-8", "replace"), (secret,) if plain else ()))
