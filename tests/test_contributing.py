"""CONTRIBUTING.md says where a new thing goes: its files are there, and no list grows in silence.

Method: each heading "A thing: N files" is compared with the numbered list below it.
"""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FILES_MAX: Final = {
    "A dialect": 8,
    "A scope of limits, of nouns that have their numbers": 5,
    "A number in the request log": 3,
    "A class of failure": 4,
    "A rule of retries": 1,
}
"""What a newcomer is promised; whoever raises one of these says why in ARCHITECTURE.md."""
SECTION: Final = re.compile(
    r"^### ([^\n]+): (\d+) files?\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL
)
ITEM: Final = re.compile(r"^\d+\. ", re.MULTILINE)
PATH: Final = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
SECTIONS: Final = {name: (int(count), body) for name, count, body in SECTION.findall(TEXT)}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_list_has_as_many_files_as_its_heading_says(name: str) -> None:
    count, body = SECTIONS[name]
    assert len(ITEM.findall(body)) == count


@pytest.mark.parametrize(("name", "most"), FILES_MAX.items())
def test_a_promise_is_kept(name: str, most: int) -> None:
    assert SECTIONS[name][0] <= most


def test_every_path_that_is_named_is_there() -> None:
    paths = PATH.findall(TEXT)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
