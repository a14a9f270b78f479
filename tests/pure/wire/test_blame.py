"""Goal: whose fault a refusal is, is read from its status and its words, by a table.

Method: refusals as real providers word them, their relatives as providers' manuals and gateways'
trackers have them, and words that a client could have put there.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Dialect
from relay.wire.dialects.known import TABLES
from relay.wire.refusals.blame import COMMON, Blame, Row, judge, render_markdown
from relay.wire.refusals.fault_body import read_fault
from relay.wire.refusals.upstream_errors import read_refusal

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "blame.md"
OPENAI, ANTHROPIC, GEMINI = Dialect


def error(message: str = "", **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


# Written as each provider words its refusals, with models, ids and numbers of our own.
REFUSALS = {
    "google, too long": (
        *(400, GEMINI, Blame.REQUEST),
        error(
            "The input token count (1200000) exceeds the maximum number of tokens allowed.",
            code=400,
            status="INVALID_ARGUMENT",
        ),
    ),
    "google, role": (
        *(400, GEMINI, Blame.REQUEST),
        error("Please use a valid role: user, model.", code=400, status="INVALID_ARGUMENT"),
    ),
    "google, key": (
        *(400, GEMINI, Blame.CREDENTIAL),
        error(
            "API key not valid. Please pass a valid API key.",
            code=400,
            status="INVALID_ARGUMENT",
            details=[{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}],
        ),
    ),
    "google, model": (
        *(404, GEMINI, Blame.MODEL),
        error(
            "models/m-1 is not found for API version v1beta, or is not supported.",
            code=404,
            status="NOT_FOUND",
        ),
    ),
    "google, publisher's model": (
        *(404, GEMINI, Blame.MODEL),
        error("Publisher Model `projects/p/models/m-1` not found.", code=404, status="NOT_FOUND"),
    ),
    "google, quota": (
        *(429, GEMINI, Blame.LIMITED),
        error(
            "You exceeded your current quota, please check your plan and billing details.",
            code=429,
            status="RESOURCE_EXHAUSTED",
        ),
    ),
    "anthropic, key": (
        *(401, ANTHROPIC, Blame.CREDENTIAL),
        {
            "type": "error",
            "error": {"type": "authentication_error", "message": "invalid x-api-key"},
        },
    ),
    "anthropic, model": (
        *(404, ANTHROPIC, Blame.MODEL),
        {"type": "error", "error": {"type": "not_found_error", "message": "model: m-1"}},
    ),
    "bedrock, model": (
        *(400, OPENAI, Blame.MODEL),
        {"message": "The provided model identifier is invalid."},
    ),
    "bedrock, key": (
        *(403, OPENAI, Blame.CREDENTIAL),
        {"message": "The security token included in the request is invalid."},
    ),
    "cohere, key": (
        *(401, OPENAI, Blame.CREDENTIAL),
        {"id": "1", "message": "Incorrect API key provided: ***."},
    ),
    "cohere, model": (
        *(404, OPENAI, Blame.MODEL),
        {"id": "1", "message": "model 'm-1' was removed on March 1, 2025."},
    ),
    "deepseek, too long": (
        *(400, OPENAI, Blame.REQUEST),
        error(
            "This model's maximum context length is 1000000 tokens. You requested 1200000.",
            type="invalid_request_error",
            param=None,
            code="invalid_request_error",
        ),
    ),
    "ollama, too long": (
        *(400, OPENAI, Blame.REQUEST),
        error(
            "prompt too long; exceeded max context length by 1000 tokens",
            type="invalid_request_error",
            param=None,
            code=None,
        ),
    ),
    "openai, too long": (
        *(400, OPENAI, Blame.REQUEST),
        error(
            "Your input exceeds the context window of this model.",
            type="invalid_request_error",
            param="input",
            code="context_length_exceeded",
        ),
    ),
    "openai, key": (
        *(401, OPENAI, Blame.CREDENTIAL),
        error(
            "Incorrect API key provided: SECRET.",
            type="invalid_request_error",
            param=None,
            code="invalid_api_key",
        ),
    ),
    "openai, model": (
        *(404, OPENAI, Blame.MODEL),
        error(
            "The model `m-1` does not exist or you do not have access to it.",
            type="invalid_request_error",
            param=None,
            code="model_not_found",
        ),
    ),
    "openrouter, key": (
        *(401, OPENAI, Blame.CREDENTIAL),
        error("Missing Authentication header", code=401),
    ),
    "perplexity, key": (
        *(401, OPENAI, Blame.CREDENTIAL),
        error("Invalid API key provided.", type="invalid_api_key", code=401),
    ),
    "azure, key": (
        *(401, OPENAI, Blame.CREDENTIAL),
        error("Access denied due to invalid subscription key.", code="401"),
    ),
    "azure, deployment": (
        *(404, OPENAI, Blame.MODEL),
        error(
            "The API deployment for this resource does not exist.",
            type="invalid_request_error",
            code="DeploymentNotFound",
        ),
    ),
    "xai, key": (
        *(400, OPENAI, Blame.CREDENTIAL),
        {"code": "invalid-argument", "error": "Incorrect API key provided."},
    ),
}


def blame_of(status: int, body: object, dialect: Dialect = OPENAI) -> Blame:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(status, read_fault(said), TABLES[dialect].blames)


@pytest.mark.parametrize(("status", "dialect", "blame", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_blamed_on_whose_fault_they_are(
    status: int, dialect: Dialect, blame: Blame, words: dict[str, object]
) -> None:
    body = json.dumps(words).encode()
    assert blame_of(status, body, dialect) is blame
    refusal = read_refusal(status, {}, body, now_s=0.0, dialect=dialect)
    if blame is Blame.REQUEST:
        assert (refusal.status, refusal.own_body) == (status, body)
        assert refusal.message in json.loads(body)["error"]["message"]
    else:
        assert refusal.own_body == b"" and "SECRET" not in refusal.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            403,
            error(
                "Your chosen model requires moderation and your input was flagged",
                code=403,
                metadata={"reasons": ["violence"], "flagged_input": "I will ..."},
            ),
        ),
        (
            403,
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
            },
        ),
        (403, {"code": "permission-denied", "error": "Content violates usage guidelines. "}),
        (400, error("The response was filtered", code="content_filter", param="prompt")),
        (
            400,
            error(
                "The response was filtered due to the prompt triggering Azure OpenAI's content "
                "management policy.",
                code=None,
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
        ),
        (
            400,
            error("Input data may contain inappropriate content.", code="data_inspection_failed"),
        ),
        (400, error("Your request was rejected by the safety system.", code="moderation_blocked")),
        (400, error("Invalid prompt.", code="invalid_prompt")),
    ],
)
def test_what_moderation_does_not_like_is_the_contents_fault(status: int, body: object) -> None:
    assert blame_of(status, body) is Blame.CONTENT
    refusal = read_refusal(status, {}, json.dumps(body).encode(), now_s=0.0)
    assert (refusal.status, refusal.switch) == (status, False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b""),
        (403, b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title>"),
        (403, b"\n <html>403 Forbidden</html>"),
        (403, b"Forbidden"),
        (403, {"message": "Forbidden"}),
        (403, {"type": "error", "error": {"type": "permission_error", "message": "No access."}}),
        (403, error("Your API key lacks the right to use this model.", type="permission_error")),
        (401, error("You have insufficient permissions for this operation. Missing scopes: x.")),
        (402, error("This request requires more credits, or fewer max_tokens.", code=402)),
        (403, error("用户额度不足, 剩余额度: 0.1, 需要: 1", code="insufficient_user_quota")),
        (429, error("Request too large for gpt-4o in organization org-x on tokens per min (TPM)")),
        (413, error("Request too large for model `x` on tokens per minute", type="tokens")),
    ],
)
def test_what_says_nothing_of_a_credential_harms_no_channel(status: int, body: object) -> None:
    assert blame_of(status, body) is Blame.ELSEWHERE


@pytest.mark.parametrize(
    ("dialect", "status", "body"),
    [
        (ANTHROPIC, 400, error("Your credit balance is too low to access the Anthropic API.")),
        (ANTHROPIC, 429, error("Spend limit reached.", type="billing_error")),
        (ANTHROPIC, 403, error("This organization has been disabled.")),
        (OPENAI, 402, error("Insufficient Balance", type="unknown_error")),
        (OPENAI, 429, error("You exceeded your current quota.", code="insufficient_quota")),
        (OPENAI, 403, error("Not supported", code="unsupported_country_region_territory")),
        (OPENAI, 403, error("Access denied due to Virtual Network/Firewall rules.", code="403")),
        (OPENAI, 403, {"__type": "com.amazon#UnrecognizedClientException", "message": "x"}),
        (OPENAI, 401, b""),
        (OPENAI, 401, b"<html>"),
        (
            GEMINI,
            403,
            error("x", status="PERMISSION_DENIED", details=[{"reason": "CONSUMER_SUSPENDED"}]),
        ),
        (GEMINI, 400, error("User location is not supported for the API use.")),
    ],
)
def test_only_its_own_words_take_a_credential_out(
    dialect: Dialect, status: int, body: object
) -> None:
    assert blame_of(status, body, dialect) is Blame.CREDENTIAL


@pytest.mark.parametrize(
    "quoted",
    [
        "Invalid value: 'Incorrect API key provided: x'. Supported values are: 'a'.",
        "messages[0].content: your credit balance is too low",
        "Unknown parameter: 'invalid api key'",
        "'user: invalid_api_key' is too long",
        "tools.0.name: API key not valid. Please pass a valid API key.",
    ],
)
def test_a_clients_words_in_a_message_take_nothing_out(quoted: str) -> None:
    assert blame_of(400, error(quoted, type="invalid_request_error")) is Blame.REQUEST
    assert blame_of(403, error(quoted)) is Blame.ELSEWHERE
    assert blame_of(429, error(quoted)) is Blame.LIMITED


@pytest.mark.parametrize(
    ("dialect", "status", "body"),
    [
        (OPENAI, 400, error("x", code="previous_response_not_found", param="previous_response_id")),
        (
            OPENAI,
            404,
            error("Item with id 'rs_1' not found. Items are not persisted.", param="input"),
        ),
        (OPENAI, 400, error("x", code="invalid_encrypted_content")),
        (OPENAI, 400, error("Invalid previous_response_id.")),
        (OPENAI, 404, error("No such File object: file-abc")),
        (ANTHROPIC, 404, error("File not found: file_1", type="not_found_error")),
        (ANTHROPIC, 400, error("messages.1.content.0: Invalid `signature` in `thinking` block")),
        (
            GEMINI,
            403,
            error("You do not have permission to access the File abc or it may not exist."),
        ),
        (GEMINI, 403, error("CachedContent not found (or permission denied)")),
        (GEMINI, 400, error("Corrupted thought signature.")),
    ],
)
def test_what_another_account_keeps_is_asked_for_once_elsewhere(
    dialect: Dialect, status: int, body: object
) -> None:
    assert blame_of(status, body, dialect) is Blame.OWNER
    said = json.dumps(body).encode()
    refusal = read_refusal(status, {}, said, now_s=0.0, dialect=dialect)
    assert (refusal.status, refusal.switch, refusal.own_body) == (status, True, said)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("The requested model 'x' does not exist.", code="model_not_found")),
        (403, error("Project `proj_x` does not have access to model `m`", code="model_not_found")),
        (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model"}),
        (404, error("Deployment unknown", code="DeploymentNotFound")),
        (400, {"message": "The provided model identifier is invalid."}),
        (404, {"detail": "Not Found"}),
        (404, b""),
        (405, {"detail": "Method Not Allowed"}),
        (410, b"gone"),
        (501, b"<html>501 Not Implemented</html>"),
    ],
)
def test_a_model_or_endpoint_that_a_channel_lacks_is_not_the_clients(
    status: int, body: object
) -> None:
    assert blame_of(status, body) is Blame.MODEL


@pytest.mark.parametrize(
    ("status", "blame"),
    [
        (302, Blame.SERVER),
        (400, Blame.REQUEST),
        (406, Blame.REQUEST),
        (407, Blame.SERVER),
        (408, Blame.TIMEOUT),
        (409, Blame.REQUEST),
        (413, Blame.REQUEST),
        (421, Blame.SERVER),
        (424, Blame.SERVER),
        (425, Blame.SERVER),
        (426, Blame.SERVER),
        (429, Blame.LIMITED),
        (431, Blame.REQUEST),
        (460, Blame.SERVER),
        (463, Blame.SERVER),
        (498, Blame.OVERLOADED),
        (499, Blame.SERVER),
        (500, Blame.SERVER),
        (503, Blame.SERVER),
        (511, Blame.SERVER),
        (520, Blame.SERVER),
        (522, Blame.TIMEOUT),
        (524, Blame.TIMEOUT),
        (529, Blame.OVERLOADED),
        (999, Blame.SERVER),
    ],
)
def test_a_status_alone_has_its_default(status: int, blame: Blame) -> None:
    assert blame_of(status, b"") is blame


def test_a_lock_that_may_be_over_is_left_to_the_clients_own_rule() -> None:
    assert read_refusal(409, {}, b"", now_s=0.0).should_retry is None
    assert read_refusal(400, {}, b"", now_s=0.0).should_retry is False


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        (error("Rate limit reached for x. Please try again in 1.5s. Visit"), 1.5),
        (error("Please try again in 20ms."), 0.02),
        (error("Quota exceeded.\nPlease retry in 48.939935699s."), 48.939935699),
        (error("x", details=[{"retryDelay": "48s"}]), 48.0),
        (error("try again in 3 seconds"), 3.0),
        (error("try again in 99999999s"), 3600.0),
        (error("try again in a moment"), None),
    ],
)
def test_when_to_come_back_may_stand_in_the_words(body: object, wait_s: float | None) -> None:
    said = json.dumps(body).encode()
    assert read_refusal(429, {}, said, now_s=0.0).retry_after_s == wait_s
    assert read_refusal(429, {b"retry-after": b"7"}, said, now_s=0.0).retry_after_s == 7.0


@given(
    st.integers(300, 999),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ("error", "message", "code", "type", "details", "metadata", "response")
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
)
def test_no_body_can_crash_it(status: int, body: object) -> None:
    for dialect in Dialect:
        read_refusal(status, {}, json.dumps(body).encode(), now_s=0.0, dialect=dialect)


def test_every_row_says_where_it_is_from_and_can_be_reached() -> None:
    tables = [COMMON, *(table.blames for table in TABLES.values())]
    rows: list[Row] = [row for table in tables for row in table]
    assert all(len(row.source) > 5 and row.statuses for row in rows)
    for row in rows:
        assert {code.lower() for code in row.codes} == row.codes
        assert all(text == text.lower() for text in (*row.begins, *row.holds))
        # What a client can have quoted anywhere in a message must harm no channel.
        assert not row.holds or row.blame in (Blame.CONTENT, Blame.ELSEWHERE, Blame.OWNER)


def test_the_page_is_the_codes() -> None:
    tables = [("Every dialect", COMMON)]
    tables += [(f"{dialect.title()}'s own", table.blames) for dialect, table in TABLES.items()]
    assert PAGE.read_text().partition("<!-- the table -->\n")[2] == render_markdown(tables)
