"""The works of the night, as one host has them configured."""

from collections.abc import Callable
from pathlib import Path

from relay.config import Config
from relay.control.night.archives import FORMATS, Archives
from relay.control.night.backups import Backups
from relay.control.night.memory import Memory
from relay.control.night.retention import Retention
from relay.control.night.rewrap import Rewrap
from relay.control.night.shapes import Work
from relay.control.night.tables import plan_reindex, plan_vacuum
from relay.errors import ConfigError
from relay.outside import find_missing
from relay.store.maintenance import WORKS
from relay.store.secrets.vault import Vault


def make_works(
    config: Config,
    data_dir: Path,
    vault: Vault,
    renew: Callable[[str], None],
    wall_s: Callable[[], float],
) -> list[Work]:
    """Return the works in the order of their turns.

    Args:
        config: Whose [maintenance] and [log] are obeyed.
        data_dir: Where the relay keeps its state.
        vault: Under whose key secrets are sealed anew.
        renew: Asks the supervisor for a new worker on a slot.
        wall_s: Seconds since 1970.

    Raises:
        ConfigError: RELAY; the package for the archive's format is not installed.
    """
    rules = config.maintenance
    if (missing := find_missing(night=rules)) is not None:
        raise ConfigError(missing)
    archives = None
    if rules.archive_dir:
        archives = Archives(data_dir / rules.archive_dir, FORMATS[rules.archive_format])
    backups = data_dir / rules.backup_dir if rules.backup_dir else None
    memory = Memory(data_dir / "run" / "metrics", rules.worker_bytes_max, renew, wall_s)
    plans = {
        "memory": memory.plan,
        "backup": Backups(backups, data_dir, rules.backup_age_days_max).plan,
        "rewrap": Rewrap(vault).plan,
        "retention": Retention(config.log.retention_days, archives).plan,
        "vacuum": plan_vacuum,
        "reindex": plan_reindex,
    }
    return [Work(name, shared, plans[name]) for name, shared in WORKS.items()]
