"""A relay whose workers are stand-ins: a process of its own, so that a test can kill it.

Prints the address when everything is ready. Arguments: data dir, address, workers, drain seconds.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from relay import event_log
from relay.config import Config, load
from relay.errors import ConfigError
from relay.process.listeners import address_of, take_sockets
from relay.process.slots import RestartBackoff, Slot
from relay.process.succession import handover
from relay.process.succession.successor import REHEARSAL, Successor
from relay.process.supervisor import Supervisor
from relay.process.systemd import Notifier


def main() -> int:
    data_dir, address, workers, drain_s = sys.argv[1:]
    os.environ["RELAY_SERVER__DRAIN_S"] = drain_s
    toml = Path(data_dir, "relay.toml")
    event_log.configure({"RELAY_LOG": "json"})
    handed = handover.take(os.environ)
    try:
        config = load(toml if toml.exists() else None, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"relay: {error.message}\n")
        return 78
    if os.environ.pop(REHEARSAL, None) is not None:
        return 0
    if handed is not None and handed.failure:
        config = msgspec.msgpack.decode(handed.config, type=Config)
    server = msgspec.structs.replace(
        config.server, listen=address, admin="127.0.0.1:0", console="", workers=int(workers)
    )
    sockets = take_sockets(server, handed)
    stand_in = Path(__file__).with_name("stand_in.py")
    posts = [
        Slot(
            name=f"worker-{index}",
            command=(sys.executable, str(stand_in)),
            listener=sock,
            drains=True,
        )
        for index, sock in enumerate(sockets.workers)
    ]
    notifier = Notifier(os.environ)
    pace = RestartBackoff(silent_s=4, relief_s=2)
    successor = Successor(Path(data_dir), "stand-in", sockets.handed, None, handed)
    supervisor = Supervisor(config, Path(data_dir), posts, successor, notifier, pace)

    def tell() -> None:
        if handed is None:
            sys.stdout.write(f"{where}\n")
            sys.stdout.flush()

    where = address_of(sockets.workers[0])
    try:
        asyncio.run(supervisor.run(tell))
    except ConfigError:
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
