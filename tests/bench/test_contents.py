"""Goal: a package's docstring is its table of contents. Method: compare it with its folder.

An entry is a line "name  what it is for"; it begins at the margin and has two spaces or more after
the name.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "benchmarks"
ENTRY = re.compile(r"^([a-z_0-9]+) {2,}\S", re.MULTILINE)
FILES_MIN, FILES_MAX = 3, 14
NO_CODE = frozenset({"__pycache__", "results", "config"})


def packages() -> list[Path]:
    """Return the folders of the suite that hold modules, the outermost first."""
    return sorted(path.parent for path in ROOT.rglob("__init__.py"))


def listed(package: Path) -> list[str]:
    """Return the names that a package's docstring lists."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return ENTRY.findall(docstring)


def held(package: Path) -> set[str]:
    """Return the modules and packages that a folder holds."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.relative_to(ROOT.parent))
def test_a_package_lists_what_it_holds_each_once(package: Path) -> None:
    found = listed(package)
    assert sorted(found) == sorted(held(package))


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.relative_to(ROOT.parent))
def test_a_folder_is_neither_a_drawer_nor_a_heap(package: Path) -> None:
    files = [path for path in package.iterdir() if path.is_file() and path.name != "__init__.py"]
    assert FILES_MIN <= len(files) <= FILES_MAX


def test_no_module_lies_outside_of_a_package() -> None:
    loose = {
        path.parent.relative_to(ROOT)
        for path in ROOT.rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert loose == set()
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert folders - NO_CODE == {path.name for path in packages()} - {ROOT.name}
