"""Goal: a list of models says which lines serve each, in every dialect, and nothing else changes.

Method: the bodies of all dialects' tables, with and without the lines.
"""

import json

import pytest

from relay.model import Dialect
from relay.wire.dialects.known import TABLES
from relay.wire.model_lines import with_lines


@pytest.mark.parametrize("dialect", list(TABLES))
def test_each_model_names_its_lines(dialect: Dialect) -> None:
    table = TABLES[dialect]
    plain = json.loads(table.models_body(["a", "b"], 7))
    told = json.loads(with_lines(table.models_body(["a", "b"], 7), {"a": ["gold", "plain"]}))
    [one, two] = told.get("data") or told["models"]
    assert one.pop("lines") == ["gold", "plain"] and "lines" not in two
    assert told == plain
    single = json.loads(with_lines(table.model_body("a", 7), {"a": ["gold"]}))
    assert single["lines"] == ["gold"]
    assert json.loads(with_lines(table.models_body([], 7), {})) == json.loads(
        table.models_body([], 7)
    )
