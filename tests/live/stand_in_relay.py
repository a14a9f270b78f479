"""A relay whose workers are stand-ins: a process of its own, so that a test can kill it.

Prints the address when everything is ready. Arguments: data dir, address, workers, drain seconds.
"""

import asyncio
import os
import sys
from pathlib import Path

from relay import event_log
from relay.config import Config, load
from relay.errors import ConfigError
from relay.process.listeners import address_of, open_listeners, take_inherited
from relay.process.slots import RestartBackoff, Slot
from relay.process.supervisor import Supervisor
from relay.process.systemd import Notifier


def main() -> int:
    data_dir, address, workers, drain_s = sys.argv[1:]
    os.environ["RELAY_SERVER__DRAIN_S"] = drain_s
    toml = Path(data_dir, "relay.toml")

    def reload() -> Config:
        return load(toml if toml.exists() else None, os.environ)

    event_log.configure({"RELAY_LOG": "json"})
    inherited = take_inherited(os.environ, os.getpid()).get("relay")
    sockets = inherited or open_listeners(address, int(workers), backlog=128, patience_s=3)
    stand_in = Path(__file__).with_name("stand_in.py")
    posts = [
        Slot(
            name=f"worker-{index}",
            command=(sys.executable, str(stand_in)),
            listener=sock,
            drains=True,
        )
        for index, sock in enumerate(sockets)
    ]
    notifier = Notifier(os.environ)
    pace = RestartBackoff(silent_s=2.5)
    supervisor = Supervisor(reload(), Path(data_dir), posts, reload, notifier, pace)

    def tell() -> None:
        sys.stdout.write(f"{where}\n")
        sys.stdout.flush()

    where = address_of(sockets[0])
    try:
        asyncio.run(supervisor.run(tell))
    except ConfigError:
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
