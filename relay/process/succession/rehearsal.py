"""Try a program before anything depends on it: could this release serve under this configuration?

It loads all code, finds every secret, and asks the database whether it fits. It listens nowhere.
It changes nothing but the schema, where it is asked to and all else is well: that only grows, and
the release that runs serves on and keeps its processes meanwhile, however long it takes.
"""

import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.control.watch.webhook import find_webhook
from relay.errors import ConfigError, DependencyDown
from relay.outside import find_missing
from relay.store import postgres
from relay.store.catalog.keys import check_pepper
from relay.store.embedded.locate import database_url
from relay.store.migrate import migrate, pending, read_records, read_scripts
from relay.store.secrets.vault import load_pepper, open_vault

PROGRAMS: Final = (
    "relay.process.launch",
    "relay.process.worker",
    "relay.process.control",
    "relay.process.console",
)


async def rehearse(
    config: Config,
    data_dir: Path,
    in_force: str,
    on_migrating: Callable[[], None] | None = None,
) -> None:
    """Return if the program of now could serve.

    Args:
        config: What it would run under.
        data_dir: Where the relay that runs keeps its state.
        in_force: Digest of the database's URL that this one uses.
        on_migrating: Called before the schema is brought up to date; None: it is left as it is.

    Raises:
        ConfigError: A secret or a package is not there, or the database refuses or does not fit.
        DependencyDown: Another database was configured, and it cannot be reached; or a migration
            cannot be applied for now.
    """
    for name in PROGRAMS:
        importlib.import_module(name)
    open_vault(config, data_dir, os.environ)
    pepper = load_pepper(config, data_dir, os.environ)
    find_webhook(config, os.environ)
    missing = find_missing(config.console.oidc, config.otlp, config.maintenance)
    if missing is not None:
        raise ConfigError(missing)
    url = database_url(config, data_dir)
    try:
        connection = await postgres.connect(url, connect_s=config.database.connect_s)
    except DependencyDown:
        if hashlib.sha256(config.database.url.encode()).hexdigest() == in_force:
            return  # it is away for the relay that runs as well
        raise
    try:
        with postgres.border():
            to_apply = pending(read_scripts(), *await read_records(connection))
            await check_pepper(connection, pepper)
        if to_apply and on_migrating is not None:
            on_migrating()
            await migrate(connection)
    finally:
        await connection.close()
