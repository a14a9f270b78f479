"""Goal: what install.sh installs is pinned by hash, and is what the tests ran on.

Method: the lock files against constraints.txt, the declared dependencies and their closure as it
is installed here.
"""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PARQUET = "requirements-parquet.lock"
LOCKS = (
    "requirements.lock", "requirements-embedded.lock", "requirements-build.lock", PARQUET,
)  # fmt: skip
BUILD = ("mypy", "setuptools", "wheel", "asyncpg-stubs")


def pinned(text: str) -> dict[str, str]:
    """Return name -> version of every `name==version` at the start of a line."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def lock(name: str) -> dict[str, str]:
    return pinned((ROOT / "deploy" / name).read_text("utf-8"))


def declared(extra: str = "") -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"][extra] if extra else []
    return [Requirement(text) for text in [*project["dependencies"], *optional]]


def closure(wanted: list[Requirement]) -> set[str]:
    """Return the names of all that these need on this machine, themselves included."""
    found: set[str] = set()
    queue = list(wanted)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        marker = requirement.marker
        if name in found or (marker and not any(marker.evaluate({"extra": e}) for e in extras)):
            continue
        found.add(name)
        for text in distribution(name).requires or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                queue.append(inner)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_is_that_of_the_constraints(name: str) -> None:
    constraints = pinned((ROOT / "constraints.txt").read_text("utf-8"))
    different = {
        package: (version, constraints.get(package))
        for package, version in lock(name).items()
        if constraints.get(package) != version
    }
    assert different == {}, "run `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes_and_no_other_place_to_come_from(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text("utf-8")
    for block in re.split(r"\n(?=\S)", text):
        if not block.startswith("#"):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "://" not in text
    assert "--index" not in text


def test_all_that_the_relay_needs_is_in_the_lock() -> None:
    assert closure(declared()) - lock("requirements.lock").keys() == set(), "run `make lock`"
    embedded = lock("requirements-embedded.lock").keys()
    assert closure(declared("embedded")) - embedded == set(), "run `make lock`"
    assert lock("requirements.lock").keys() <= embedded
    assert set(BUILD) <= lock("requirements-build.lock").keys()
    beside = closure(declared("parquet")) - closure(declared())
    assert beside == set(lock(PARQUET)), "it is installed beside one of the others"


def test_what_is_locked_satisfies_what_is_declared() -> None:
    versions = {**lock("requirements-embedded.lock"), **lock(PARQUET)}
    for requirement in [*declared("embedded"), *declared("parquet")]:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
