"""Goal: no words that a client gets an upstream to repeat take a channel from all others.

Method: validators that quote the value which they refuse, at the beginning of what they say, in the
shapes of jsonschema, pydantic, vLLM and gateways in front of them.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Dialect
from relay.wire.dialects.known import TABLES
from relay.wire.refusals.blame import Blame, judge
from relay.wire.refusals.fault_body import read_fault

CREDENTIAL_WORDS = (
    "Incorrect API key provided",
    "Invalid API key",
    "API key not valid",
    "Your credit balance is too low",
    "Your account has been",
    "Insufficient balance",
    "invalid x-api-key",
    "access denied due to invalid subscription key",
)
QUOTING = (
    "'{}' is too short - 'tools.0.function.name'",
    '"{}" is not valid under any of the given schemas',
    "['{}'] is not of type 'string' - 'stop'",
    "Value error, {} is not a role",
    "1 validation error for ChatCompletionRequest\nmessages.0.content\n  {}",
    "Unknown parameter: '{}'.",
    "({}): unexpected end of template",
)


def blame_of(status: int, message: str, dialect: Dialect) -> Blame:
    body = json.dumps({"error": {"message": message, "type": "BadRequestError"}}).encode()
    return judge(status, read_fault(body), TABLES[dialect].blames)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("quoting", QUOTING)
@pytest.mark.parametrize("words", CREDENTIAL_WORDS)
def test_a_validator_that_quotes_a_client_takes_no_credential_out(
    words: str, quoting: str, dialect: Dialect
) -> None:
    for status in (400, 403, 404, 409, 422, 429, 500, 503):
        assert blame_of(status, quoting.format(words), dialect) is not Blame.CREDENTIAL


@given(st.text(max_size=200), st.sampled_from((400, 403, 404, 413, 422, 429, 500)))
def test_no_text_of_a_client_behind_a_providers_own_words_does(text: str, status: int) -> None:
    for words in CREDENTIAL_WORDS:
        message = f"Invalid value: {text}{words}{text}"
        assert blame_of(status, message, Dialect.OPENAI) is not Blame.CREDENTIAL
