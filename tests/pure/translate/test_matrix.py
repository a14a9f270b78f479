"""Every cell of client dialect x upstream dialect x feature passes or is refused by name.

Method: tests/pure/translate/matrix.py tries each cell; its tables stand in docs/translation.md.
Write them anew with `python -m tests.pure.translate.matrix`.
"""

from typing import Final

import pytest

from relay.translate import TranslateDialect
from tests.pure.translate.matrix import COLUMNS, DOCUMENT, between_marks, cell, tables
from tests.pure.translate.samples import DIALECTS

PAIRS: Final = [(one, other) for one in DIALECTS for other in DIALECTS]


@pytest.mark.parametrize("how", ["stream", "JSON"])
@pytest.mark.parametrize("feature", COLUMNS)
@pytest.mark.parametrize(("client", "upstream"), PAIRS, ids=lambda one: one.value)
def test_nothing_is_lost(
    client: TranslateDialect, upstream: TranslateDialect, feature: str, how: str
) -> None:
    found = cell(client, upstream, feature, how)
    assert found == "native" or found.startswith(("passes", "400 "))


@pytest.mark.parametrize("name", ["matrix", "fields"])
def test_the_document_says_what_the_code_does(name: str) -> None:
    _, inner, _ = between_marks(DOCUMENT.read_text("utf-8"), name)
    assert inner == tables()[name]
