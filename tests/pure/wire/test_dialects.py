"""Goal: nobody but a dialect's own table knows what it says differently, so that one more is cheap.

Method: the source files are searched for names of dialects; every table is asked every question.
"""

import json
import re
from pathlib import Path

import pytest

import relay
from relay.errors import BadRequest, RateLimited, RelayError
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects.known import KEY_HEADERS, TABLES
from relay.wire.dialects.table import OURS, DialectTable, forwarded

ROOT = Path(relay.__file__).parent
ALLOWED = {
    "model.py": "the catalog's word for it, and where its API begins in a base URL",
    "records.py": "an endpoint is of one dialect",
    "wire/kinds/presets.py": "which dialect a provider speaks",
}
APART = ("mock", "translate")
"""The scripted provider, and translation, which is from one named dialect to another: to serve one
more needs neither."""
FILES_MAX = 8
"""Of relay/, touched by one more dialect."""


def naming_a_dialect() -> set[str]:
    """Return the files that name one dialect, by its member or by its module."""
    members = "|".join(dialect.name for dialect in Dialect)
    modules = "|".join(Dialect)
    pattern = re.compile(
        rf"Dialect\.({members})\b|dialects\.({modules})\b|dialects import .*\b({modules})\b"
    )
    return {
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if pattern.search(file.read_text()) and file.relative_to(ROOT).parts[0] not in APART
    }


def test_only_its_own_folder_names_a_dialect() -> None:
    outside = {file for file in naming_a_dialect() if not file.startswith("wire/dialects/")}
    assert outside == set(ALLOWED)


def test_one_more_dialect_touches_few_files() -> None:
    # Its own module is new; the others name each dialect that there is.
    assert len(naming_a_dialect()) <= FILES_MAX


@pytest.mark.parametrize("dialect", Dialect)
def test_every_dialect_has_a_table_that_answers(dialect: Dialect) -> None:
    table = TABLES[dialect]
    assert table.dialect is dialect
    error = RateLimited("Too fast.", retry_after_s=2.5)
    status, body = table.error_status(error), json.loads(table.error_body(error, "req_1"))
    assert status == 429 and "Too fast." in body["error"]["message"]
    for endpoint in Endpoint:
        event = table.error_event(error, "req_1", endpoint, b"", 0)
        assert event.endswith(b"\n\n") and b"Too fast." in event
    assert b'"m-1"' in table.model_body("m-1", 7) or b"models/m-1" in table.model_body("m-1", 7)
    assert b"m-1" in table.models_body(["m-1", "m-2"], 7)
    name, before = table.upstream_credential
    assert name.lower() in OURS and not before.strip().endswith(":")
    assert set(table.client_credentials) <= set(KEY_HEADERS) <= OURS
    assert all(b"%b" in name for name in table.rate_names)
    assert table.keep_alive is None or table.keep_alive.endswith(b"\n\n")


def test_comments_are_kept_from_clients_that_break_on_them() -> None:
    assert TABLES[Dialect.GEMINI].keep_alive is None


def test_gemini_errors_are_as_its_clients_read_them() -> None:
    table = TABLES[Dialect.GEMINI]
    error = json.loads(table.error_body(RateLimited("Wait.", retry_after_s=2.5), "req_1"))["error"]
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert error["details"][1]["retryDelay"] == "3s"
    assert error["details"][0]["metadata"] == {"request_id": "req_1"}
    # The Python client looks at how a chunk begins.
    event = table.error_event(RelayError("Broken."), "req_1", Endpoint.CHAT, b"", 3)
    assert event.startswith(b'data: {"error":{')
    odd = json.loads(table.error_body(BadRequest("No."), "req_1"))["error"]
    assert (odd["code"], odd["status"], len(odd["details"])) == (400, "INVALID_ARGUMENT", 1)


def test_a_table_is_never_changed() -> None:
    with pytest.raises(AttributeError):
        TABLES[Dialect.OPENAI].mark = "x"  # type: ignore[misc]
    assert DialectTable.__dataclass_fields__.keys() == set(DialectTable.__slots__)


def test_what_goes_on_is_named_and_harmless() -> None:
    items = [
        ("TraceParent", "00-ab-cd-01"),
        ("x-session-a", "1"),
        ("X-Goog-Api-Key", "secret"),
        ("Cookie", "a=b"),
        ("traceparent", "odd\r\nHost: x"),
        ("traceparent", "ä"),
        ("traceparent", ""),
        ("traceparent", "y" * 5000),
    ]
    names = frozenset({"traceparent", "cookie"})
    assert forwarded(items, names, ("x-session-", "x-goog-")) == (
        b"traceparent: 00-ab-cd-01\r\nx-session-a: 1\r\n"
    )
    many = forwarded([("traceparent", "y" * 4000)] * 9, names)
    assert 8_000 < len(many) < 12_300
