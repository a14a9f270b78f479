"""House rules that no linter knows: sizes, names, reach. Method: the syntax tree of every file.

A rule lists everything that breaks it, so that one run shows all there is to do.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
MODULE_LINES_MAX: Final = {"relay": 450, "benchmarks": 350, "tests": 500}
FUNCTION_LINES_MAX: Final = 70

BANNED_WORDS: Final = {"manager", "handler", "helper", "util", "utils", "base", "data", "info"}
"""They say nothing about what a thing is for."""
ALLOWED_NAMES: Final = {
    "data_received": "asyncio.Protocol calls it so",
    "get_extra_info": "asyncio.Transport calls it so",
    "data_dir": "the contract: --data-dir",
    "_data_dir_option": "the contract: --data-dir",
    "DataServer": "the data plane's server, as against the admin server",
}
"""Names with a banned word in them, and why there is no better one."""

ENTRY_POINTS: Final = {"relay.__main__"}
"""Modules that only the interpreter imports."""

CONTENTS_LINE: Final = re.compile(r"(?m)^([a-z]\w*/?) {2,}\S")

LATE_IMPORT: Final = re.compile(r"(relay(?:\.\w+)+):\w+")

MACHINE_PATH: Final = re.compile(r"(?<![\w.:])/(?:work|root|home|tmp|Users)/\w")
"""Folders that are there on one machine and not on the next."""
TEXTS: Final = re.compile(
    r"Makefile|run|.*\.(py|md|toml|cfg|txt|sql|lua|json|service|socket|conf|js|css|html)"
)
"""Names of files that are read for that."""

_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    """A Python file of ours: path below the root, text, syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its dotted name; a package has the name of its folder."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def modules(folder: str) -> tuple[Module, ...]:
    """Return the Python files below a folder of the project, in order."""
    files = sorted((ROOT / folder).rglob("*.py"))
    texts = [(file.relative_to(ROOT).as_posix(), file.read_text()) for file in files]
    return tuple(Module(path, text, ast.parse(text, path)) for path, text in texts)


def everything() -> Iterator[Module]:
    """Yield every module of the project."""
    for folder in MODULE_LINES_MAX:
        yield from modules(folder)


def words(name: str) -> set[str]:
    """Return the words of a snake_case or CamelCase name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)}


def test_modules_are_short() -> None:
    long = {
        module.path: lines
        for folder, lines_max in MODULE_LINES_MAX.items()
        for module in modules(folder)
        if (lines := module.text.count("\n")) > lines_max
    }
    assert long == {}


def test_functions_are_short() -> None:
    long = {
        f"{module.path}:{node.lineno} {node.name}": lines
        for module in everything()
        for node in ast.walk(module.tree)
        if isinstance(node, _FUNCTIONS)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def names(module: Module) -> Iterator[str]:
    """Yield the module's own name and those of its classes and functions."""
    yield module.name.rpartition(".")[2]
    yield from (node.name for node in ast.walk(module.tree) if isinstance(node, _DEFINITIONS))


def test_names_say_something() -> None:
    found = {
        f"{module.path}: {name}"
        for module in modules("relay")
        for name in names(module)
        if words(name) & BANNED_WORDS and name not in ALLOWED_NAMES
    }
    assert found == set()


def test_every_exception_to_the_names_is_still_needed() -> None:
    used = {name for module in modules("relay") for name in names(module)}
    assert ALLOWED_NAMES.keys() - used == set()


def imports(module: Module) -> Iterator[str]:
    """Yield every dotted name that a module imports, now or by "relay.module:name" when needed."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (found[1] for found in [LATE_IMPORT.fullmatch(node.value)] if found)


def test_every_module_is_used() -> None:
    """A package is used where a module of it is."""
    used = {name for module in everything() for name in imports(module) if name != module.name}
    packages = {module.name for module in modules("relay") if module.path.endswith("__init__.py")}
    mine = {module.name for module in modules("relay")} - packages - ENTRY_POINTS
    assert mine - used == set()


def test_every_package_begins_with_its_table_of_contents() -> None:
    """A line of it is the name of a module, or of a package and a slash, then two blanks."""
    wrong = {}
    for module in modules("relay"):
        folder = (ROOT / module.path).parent
        if not module.path.endswith("__init__.py") or module.name == "relay":
            continue
        there = {file.stem for file in folder.glob("*.py")} - {"__init__"}
        there |= {f"{file.parent.name}/" for file in folder.glob("*/__init__.py")}
        _, _, contents = (ast.get_docstring(module.tree) or "").partition("\n\n")
        listed = set(CONTENTS_LINE.findall(contents))
        if listed != there:
            wrong[module.name] = listed ^ there
    assert wrong == {}


def test_every_test_file_says_its_goal_and_method() -> None:
    silent = [m.path for m in modules("tests") if m.text.strip() and not ast.get_docstring(m.tree)]
    assert silent == []


def test_no_file_names_a_path_of_one_machine() -> None:
    folders = ("relay", "tests", "benchmarks", "deploy", ".ci")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    files += ROOT.glob("*")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.is_file() and TEXTS.fullmatch(file.name)
        for number, line in enumerate(file.read_text().split("\n"), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_rules_find_what_they_look_for() -> None:
    assert words("DataManager_of_HTTPInfo") >= {"data", "manager", "info"}
    assert words("database_url") | words("to_base62") == {"database", "url", "to", "base62"}
    assert MACHINE_PATH.search("see /" + "tmp/x") is not None
    assert MACHINE_PATH.search("https://example.com/" + "home/x") is None
