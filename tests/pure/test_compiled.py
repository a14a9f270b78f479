"""Goal: what is compiled is used while it is of today's sources, and all that is listed can be.

Method: the list against the syntax trees of its modules, for what mypyc refuses or gets wrong; the
finder over a folder of empty libraries with notes that are right, wrong and missing.
"""

import ast
import importlib.util
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import relay
from relay import compiled

ROOT = Path(relay.__file__).parent
TREES = {
    name: ast.parse((ROOT.parent / f"{name.replace('.', '/')}.py").read_text())
    for name in compiled.MODULES
}


def test_each_module_is_listed_once() -> None:
    assert len(set(compiled.MODULES)) == len(compiled.MODULES)


@pytest.mark.parametrize("name", TREES)
def test_no_listed_module_defines_a_struct(name: str) -> None:
    """What a class says in its brackets (frozen) is dropped, and msgspec needs annotations."""
    bases = {
        ast.unparse(base)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert "msgspec.Struct" not in bases


@pytest.mark.parametrize("name", TREES)
def test_no_listed_module_awaits_behind_an_except(name: str) -> None:
    """There mypyc keeps the exception while the task lives, and with it all that it refers to."""
    found = [
        node.lineno
        for handler in ast.walk(TREES[name])
        if isinstance(handler, ast.ExceptHandler)
        for node in ast.walk(handler)
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor)
    ]
    assert found == []


@pytest.mark.parametrize("name", TREES)
def test_no_listed_module_combines_a_set_with_a_dictionarys_view(name: str) -> None:
    """What comes of `frozenset & dict.keys()` is a set, which mypyc's types deny: TypeError."""
    found = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.BinOp)
        and isinstance(node.right, ast.Call)
        and isinstance(node.right.func, ast.Attribute)
        and node.right.func.attr in ("keys", "items")
    ]
    assert found == []


@pytest.mark.parametrize("name", TREES)
def test_no_listed_module_has_an_asynchronous_generator(name: str) -> None:
    found = [
        function.name
        for function in ast.walk(TREES[name])
        if isinstance(function, ast.AsyncFunctionDef)
        and any(isinstance(node, ast.Yield) for node in ast.walk(function))
    ]
    assert found == []


PROTOCOLS = {
    node.name
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
}


@pytest.mark.parametrize("name", TREES)
def test_no_listed_module_gives_a_port_the_default_none(name: str) -> None:
    """Such an attribute would be left undefined; in `__init__` it is set."""
    found = [
        ast.unparse(line)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.value, ast.Constant)
        and {word.id for word in ast.walk(line.annotation) if isinstance(word, ast.Name)}
        & PROTOCOLS
    ]
    assert found == []


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder as `make compiled` leaves it, with libraries that nobody loads."""
    suffix = EXTENSION_SUFFIXES[0]
    for name in ("relay__mypyc", *(name.replace(".", "/") for name in compiled.MODULES)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}{suffix}").touch()
    (tmp_path / compiled.NOTE).write_text(compiled.made_from())
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    monkeypatch.delenv("RELAY_PURE", raising=False)
    # Without the finder of a build that this very run may use.
    plain = [f for f in sys.meta_path if not isinstance(f, compiled.Finder)]
    monkeypatch.setattr(sys, "meta_path", plain)
    return tmp_path


def origin(name: str) -> Path:
    """Return where a module would be imported from."""
    for finder in sys.meta_path:
        package = importlib.import_module(name.rpartition(".")[0])
        spec = finder.find_spec(name, package.__path__, None)
        if spec is not None:
            assert spec.origin is not None
            return Path(spec.origin)
    raise AssertionError(f"{name} is not found")


def test_what_was_built_is_used(built: Path) -> None:
    compiled.use_compiled()
    assert origin("relay.flow.exchange").is_relative_to(built)
    assert origin("relay.flow.reserve.refusals") == ROOT / "flow" / "reserve" / "refusals.py"


def test_what_was_built_of_other_sources_is_not_used_and_it_is_said(built: Path) -> None:
    (built / compiled.NOTE).write_text("0" * 32)
    compiled.use_compiled()
    assert origin("relay.flow.exchange") == ROOT / "flow" / "exchange.py"
    plain = subprocess.run(
        [sys.executable, "-c", "from relay.compiled import describe; print(describe())"],
        env={"RELAY_PURE": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert plain.stdout == "pure Python\n"


def test_half_a_build_is_not_used(built: Path) -> None:
    next(file for file in (built / "relay" / "wire").rglob("*") if file.is_file()).unlink()
    compiled.use_compiled()
    assert origin("relay.flow.exchange") == ROOT / "flow" / "exchange.py"


def test_it_can_be_left_out(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PURE", "1")
    compiled.use_compiled()
    assert origin("relay.flow.exchange") == ROOT / "flow" / "exchange.py"


def test_a_changed_source_changes_the_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "sse.py").write_text("A = 1\n")
    before = compiled.made_from()
    (tmp_path / "wire" / "sse.py").write_text("A = 2\n")
    assert compiled.made_from() != before
    (tmp_path / "wire" / "sse.py").rename(tmp_path / "wire" / "keys.py")
    assert compiled.made_from() != before
