"""Goal: a back-up that would not help is found at night, and why; one that would is not.

Method: folders as deploy/backup.sh makes them, by that very script, then damaged in each way.
"""

import datetime
import subprocess
from pathlib import Path

import pytest

from relay.control.night.backups import Backups
from relay.control.night.shapes import StepFailed

pytestmark = pytest.mark.live

SCRIPT = Path(__file__).parents[3] / "deploy" / "backup.sh"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A host's data dir with secrets, saved to tmp_path/backups."""
    secrets = tmp_path / "data" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "pepper.key").write_text("pepper")
    (secrets / "master.key").write_text("master")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "relay.toml").write_text("")
    save(tmp_path)
    return tmp_path / "data"


def save(place: Path) -> None:
    command = ["sh", str(SCRIPT), "save", str(place / "backups"), "--no-database"]
    where = ["--config", f"{place}/etc/relay.toml", "--data-dir", f"{place}/data"]
    subprocess.run([*command, *where], check=True, capture_output=True)


def look(data_dir: Path, *, days_later: int = 0) -> str:
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days_later)
    folder = data_dir.parent / "backups"
    try:
        return Backups(folder, data_dir, 8).examine(folder, now)
    except StepFailed as exc:
        return f"failed: {exc}"


def newest(data_dir: Path) -> Path:
    return max((data_dir.parent / "backups").iterdir())


def test_a_good_one_is_good(data_dir: Path) -> None:
    assert look(data_dir) == f"{newest(data_dir).name} is whole"


def test_none_at_all(data_dir: Path) -> None:
    newest(data_dir).rename(data_dir.parent / "elsewhere")
    assert "holds no back-up" in look(data_dir)
    (data_dir.parent / "backups").rmdir()
    assert "No such file" in look(data_dir)


def test_an_old_one(data_dir: Path) -> None:
    assert "is whole" in look(data_dir, days_later=7)
    assert "is 9 days old" in look(data_dir, days_later=9)


@pytest.mark.parametrize("name", ["secrets/pepper.key", "config/relay.toml"])
def test_a_damaged_one(data_dir: Path, name: str) -> None:
    (newest(data_dir) / name).write_text("x")
    assert f"{name} is damaged" in look(data_dir)


def test_one_with_the_secrets_of_before(data_dir: Path) -> None:
    (data_dir / "secrets" / "master.key").write_text("another")
    assert "has another master.key than this host" in look(data_dir)


def test_one_without_secrets(data_dir: Path) -> None:
    (newest(data_dir) / "secrets" / "pepper.key").unlink()
    assert "No such file" in look(data_dir)
