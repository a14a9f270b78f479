"""Goal: be a worker that can be killed: write calls into a journal for ever.

Method: `python journal_writer.py DIR` prints how many calls are in the file, after each flush.
"""

import asyncio
import sys
from pathlib import Path

from relay.config import JournalConfig
from relay.records import CallCheckpoint
from relay.store.log.journal import Journal


async def write_forever(directory: Path) -> None:
    journal = Journal(directory, "worker-0", JournalConfig(flush_ms=1))
    journal.open()
    count = 0
    while True:
        for _ in range(100):
            count += 1
            number = count.to_bytes(16, "big")
            journal.checkpoint(CallCheckpoint(number, 1, count))
        while journal._pending or journal._begun:
            await asyncio.sleep(0)
        sys.stdout.write(f"{count}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write_forever(Path(sys.argv[1])))
