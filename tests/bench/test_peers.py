"""Goal: a peer that can be had is had, with root and without; one that cannot is said to be.

Method: an apt-get and a dpkg of our own on PATH, which note how they were called.
"""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.command import bench
from benchmarks.peers import debian
from benchmarks.peers.install import install, missing
from benchmarks.peers.table import PEERS

APT_GET = """#!/bin/sh
echo "apt-get $*" >> "$CALLS"
case "$*" in
  *" update"*) exit ${UPDATE:-0} ;;
  *--simulate*) echo "Inst libthing (1.0 Debian)"; echo "Inst server (1.0 Debian)" ;;
  *download*) touch libthing.deb server.deb ;;
  *install*) if [ -n "$REFUSE" ]; then echo "E: no package server" >&2; exit 100; fi ;;
esac
"""
DPKG = """#!/bin/sh
echo "dpkg $1 $(basename $2)" >> "$CALLS"
case $2 in
  *libthing*) mkdir -p "$3/usr/lib/x86_64-linux-gnu" ;;
  *) mkdir -p "$3/usr/sbin"; touch "$3/usr/sbin/a-server"; chmod +x "$3/usr/sbin/a-server" ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put our programs first on PATH; return where they note their calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET), ("dpkg", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(debian, "_POLICY", tmp_path / "policy-rc.d")
    return tmp_path / "calls"


def be(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_root_updates_the_lists_first_and_starts_nothing(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 0)
    debian.install("server", tmp_path / "peer")
    update, installed = calls.read_text().splitlines()
    assert update.endswith(" update")
    assert installed.endswith(" install --yes --no-install-recommends server")
    assert not (tmp_path / "policy-rc.d").exists()


def test_others_unpack_the_package_and_what_it_needs_into_its_folder(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 1000)
    folder = tmp_path / "peer"
    assert debian.find(folder, "a-server") is None
    debian.install("server", folder)
    said = calls.read_text()
    assert "Dir::State::Lists=" in said.splitlines()[0]
    assert "download libthing server" in said
    assert "dpkg -x server.deb" in said
    assert debian.find(folder, "a-server") == folder / "root/usr/sbin/a-server"
    assert debian.environment(folder)["LD_LIBRARY_PATH"].endswith("/usr/lib/x86_64-linux-gnu")
    assert not (folder / "apt").exists()


def test_root_unpacks_too_where_the_system_refuses(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 0)
    monkeypatch.setenv("REFUSE", "1")
    debian.install("server", tmp_path / "peer")
    assert "dpkg -x" in calls.read_text()


def test_where_neither_works_both_reasons_are_told(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, 0)
    monkeypatch.setenv("UPDATE", "100")
    with pytest.raises(debian.Refused, match=r"update.*update"):
        debian.install("server", tmp_path / "peer")
    assert "download" not in calls.read_text()


def test_without_apt_get_that_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.Refused, match="no apt-get"):
        debian.install("server", tmp_path)


def test_a_peer_that_no_registry_has_is_said_at_once_and_again_in_the_end() -> None:
    said: list[str] = []
    absent = install(("busbar",), said.append)
    assert said == [f"busbar: NOT installed: {absent['busbar']}"]
    output = CliRunner().invoke(bench, ["peers", "--install", "busbar", "tensorzero"]).output
    lines = [line for line in output.splitlines() if "NOT installed" in line]
    assert [line.partition("] ")[2].partition(":")[0] for line in lines] == [
        "busbar",
        "tensorzero",
        "NOT installed",
        "NOT installed",
    ]


def test_every_peer_says_where_it_is_had_or_why_it_is_not() -> None:
    for peer in PEERS.values():
        assert (peer.source == "none") is bool(peer.not_to_be_had)
        assert peer.source in ("none", "own") or peer.package
        assert "not " in missing(peer)
