"""Goal: whatever is wrong with a stranger's JSON is one error, and nothing of it is kept by that.

Method: each way to be wrong, for each way to be read; and a look at who decodes at all.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.decoding import Decoder, Undecodable, decoder_of

RELAY = Path(__file__).parents[2] / "relay"
DEEP = b"[" * 100_000
TRUSTED = re.compile(
    r"cli/|mock/|process/|config\.py|limits/heartbeat|store/(?!catalog/new_api)"
    r"|control/catalog/tokens|control/watch/troubles|control/secrets_desk|console/render"
    r"|console/signin/journey|console/queries/forms|wire/model_lines|flow/translated/plan|decoding"
)
"""Who reads what we wrote ourselves: rows, files, what a vault of ours was asked."""


class Named(msgspec.Struct):
    name: str = ""


@pytest.mark.parametrize(
    ("kind", "raw", "place", "deep"),
    [
        (Any, b"", "", False),
        (Any, b'{"a":', "", False),
        (Any, b"\x80", "", False),
        (Any, b'"\xff"', "", False),
        (Named, b'{"name":"\xed\xa0\x80"}', "", False),
        (Named, b'{"name":"\\ud800"}', "", False),
        (Named, b'{"name":5}', "Expected `str`, got `int` - at `$.name`", False),
        (Named, b"[]", "Expected `object`, got `array`", False),
        (int, b"1e400", "Number out of range", False),
        (Any, DEEP, "", True),
        (dict[str, msgspec.Raw], b'{"a":' + DEEP, "", True),
    ],
)
def test_there_is_one_error(kind: Any, raw: bytes, place: str, deep: bool) -> None:
    with pytest.raises(Undecodable) as caught:
        Decoder(kind).decode(raw)
    assert (caught.value.place, caught.value.deep) == (place, deep)
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_what_is_good_is_a_value() -> None:
    assert Decoder(Named).decode(b'{"name":"x","more":[1]}') == Named("x")
    assert Decoder(Named).decode(msgspec.Raw(b'{"name":"y"}')) == Named("y")
    assert Decoder(list[int]).decode("[1]") == [1]
    assert decoder_of(int | None).decode(b"null") is None
    told: object = Decoder(Any, float_hook=str).decode(b"1.50")
    assert told == "1.50"


def test_nobody_reads_what_strangers_wrote_in_another_way() -> None:
    found = [
        str(file.relative_to(RELAY))
        for file in RELAY.rglob("*.py")
        if not TRUSTED.match(str(file.relative_to(RELAY)))
        and re.search(r"msgspec\.json\.(decode|Decoder)\(", file.read_text())
    ]
    assert found == []
