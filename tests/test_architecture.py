"""ARCHITECTURE.md cannot drift: the switching table in it is the one the code obeys."""

from pathlib import Path

from relay.routing.table import render_markdown

ROOT = Path(__file__).parents[1]


def test_the_switching_table_is_the_codes() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    _, _, rest = text.partition("<!-- routing.table: begin -->\n")
    table, found, _ = rest.partition("<!-- routing.table: end -->")
    assert found
    assert table == render_markdown()


def test_every_floor_named_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for folder in (path.name for path in (ROOT / "relay").iterdir() if path.is_dir()):
        assert folder.startswith("__") or folder in text
