"""Goal: whatever a file cites is in this repository, and whatever docs/ says is cited somewhere.

Method: every text is searched for names of documents. A citation is the document's path, and in
quotes the heading of a section: `docs/streams.md, "Ends"`.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]
FOLDERS: Final = ("relay", "tests", "benchmarks", "deploy", "docs", ".ci")
TEXTS: Final = re.compile(r".*\.(py|sql|lua|toml|service|socket|conf|js|css|html|md)|Makefile|run")
NOT_OURS: Final = ("node_modules", "recorded", "results")
"""Folders whose files others wrote, or a program."""
DOCS: Final = tuple(sorted((ROOT / "docs").glob("*.md")))

CITATION: Final = re.compile(
    r'(?<![\w:/.-])((?:[\w-]+/)*[\w-]+\.md)\b((?:(?:,| and) "[^"]{1,80}")*)'
)
HEADING: Final = re.compile(r"^#{1,4} (?:\d+\. )?(.+)$", re.MULTILINE)
IN_CAPITALS: Final = re.compile(
    r"Source: ([A-Z]{4,})[,:]|\(([A-Z]{4,}): |\b([A-Z]{4,}),? sections? \d"
    rf"|(?<![`\w])({'|'.join(doc.stem.upper() for doc in DOCS)})(?![`\w])"
)
"""A document called by its name alone: nobody could tell where it is."""
PACKAGES: Final = sorted(path.parent.name for path in (ROOT / "relay").glob("*/__init__.py"))
DOTTED: Final = re.compile(
    rf"(?<![\w./`-])(?:relay\.)?((?:{'|'.join(PACKAGES)})(?:\.[a-z_]+)+)(?:\.([A-Z]\w+))?"
    r"(?![\w/(]|\.(?:lua|sql|md|py|toml))"
)
"""A module of the relay as prose names it, without "relay." in front, and what of it is meant."""
MARGIN: Final = re.compile(r"\s*\n[ \t]*(?:#|--|//|\*)?[ \t]*")


class Citation(NamedTuple):
    """Where a document is cited: file, document, heading ("" = the whole of it)."""

    path: str
    document: str
    heading: str


def prose(path: Path) -> str:
    """Return what people read of a file, without its line breaks: of Python no code."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        text = "\n\n".join([*docstrings(text), *comments(text)])
    return MARGIN.sub(" ", text)


def docstrings(text: str) -> Iterator[str]:
    """Yield the strings that stand by themselves: those of modules, functions, classes, names."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def comments(text: str) -> Iterator[str]:
    """Yield blocks of comments."""
    block: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            block.append(token.string.removeprefix("#").strip())
        elif token.type != tokenize.NL and block:
            yield " ".join(block)
            block = []


@cache
def texts() -> dict[str, str]:
    """Return the prose of every file of the project, by its path below the root."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*"))]
    files += sorted(ROOT.glob("*"))
    return {
        file.relative_to(ROOT).as_posix(): prose(file)
        for file in files
        if file.is_file() and TEXTS.fullmatch(file.name) and not set(NOT_OURS) & set(file.parts)
    }


def citations() -> Iterator[Citation]:
    """Yield every citation of a document."""
    for path, text in texts().items():
        for document, heading in cited(text):
            yield Citation(path, document, heading)


def cited(text: str) -> Iterator[tuple[str, str]]:
    """Yield document and heading of each citation in a text."""
    for found in CITATION.finditer(text):
        for heading in re.findall('"([^"]+)"', found[2]) or [""]:
            yield found[1], heading


def resolve(citation: Citation) -> Path | None:
    """Return the file that is meant, by its path from the root or from whoever cites it."""
    here = (ROOT / citation.path).parent
    for folder in (ROOT, here, here / "recorded"):
        if (folder / citation.document).is_file():
            return folder / citation.document
    return None


@cache
def headings(document: Path) -> frozenset[str]:
    """Return the headings of a document, without their numbers."""
    return frozenset(HEADING.findall(document.read_text("utf-8")))


def test_every_document_that_is_cited_is_here() -> None:
    assert [citation for citation in citations() if resolve(citation) is None] == []


def test_every_heading_that_is_cited_is_there() -> None:
    lost = []
    for citation in citations():
        document = resolve(citation)
        if document is not None and citation.heading:
            lost += [citation] if citation.heading not in headings(document) else []
    assert lost == []


def test_no_document_is_cited_by_a_name_in_capitals() -> None:
    found = {path: hit[0] for path, text in texts().items() for hit in IN_CAPITALS.finditer(text)}
    assert found == {}


def test_every_section_of_a_document_is_leaned_on() -> None:
    """A fact that no code relies on belongs elsewhere, and is not kept up to date here."""
    relied_on = {(citation.document, citation.heading) for citation in citations()}
    sections = {
        (document.relative_to(ROOT).as_posix(), heading)
        for document in DOCS
        for heading in re.findall(r"^## \d+\. (.+)$", document.read_text("utf-8"), re.MULTILINE)
    }
    assert len(sections) > 20
    assert sections - relied_on == set()


def is_there(dotted: str, name: str | None) -> bool:
    """Tell whether a module is there, and holds what is said to be of it."""
    parts = dotted.split(".")
    for count in range(len(parts), 1, -1):
        module = ROOT.joinpath("relay", *parts[:count])
        if (module / "__init__.py").is_file():
            return count == len(parts) and name is None
        if module.with_suffix(".py").is_file():
            held = [*parts[count:], *([name] if name else [])]
            text = module.with_suffix(".py").read_text("utf-8")
            return all(re.search(rf"\b{word}\b", text) for word in held)
    return False


def test_every_module_that_prose_names_is_there() -> None:
    lost = {
        f"{path}: {found[0]}"
        for path, text in texts().items()
        if path.startswith("relay/")
        for found in DOTTED.finditer(text)
        if not is_there(found[1], found[2])
    }
    assert lost == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('Source: docs/streams.md, "Ends".', [("docs/streams.md", "Ends")]),
        ('docs/a.md, "B" and "C, d"; "e"', [("docs/a.md", "B"), ("docs/a.md", "C, d")]),
        ("see README.md for the method", [("README.md", "")]),
        ("https://example.com/docs/README.md is not ours", []),
        ("file:/opt/relay/README.md is not either", []),
    ],
)
def test_a_citation_is_told_from_a_link(line: str, expected: list[tuple[str, str]]) -> None:
    assert list(cited(line)) == expected


@pytest.mark.parametrize(
    "line",
    [
        "Source: STREAMS, section 4",
        "(DESIGN: switching)",
        "what LIMITS says",
        "PLAN section 9: a row",
    ],
)
def test_a_name_in_capitals_is_found_out(line: str) -> None:
    assert IN_CAPITALS.search(line) is not None


def test_a_constant_of_that_name_is_none() -> None:
    assert IN_CAPITALS.search("`LIMITS` says how many; COMMITTED: a byte is out") is None
