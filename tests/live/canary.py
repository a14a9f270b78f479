"""Looking for a secret in everything that a relay has written or says, in every form it may have.

Places are the data dir with its WAL, all tables as text (what a dump holds, whatever is compressed
on disk), all keys of Valkey, the processes' command lines, the words, the metrics. Forms are the
text itself, hex, the three ways base64 may fall on it, escaped for URLs and for JSON, UTF-16.
"""

import base64
import contextlib
from pathlib import Path
from typing import Any

import asyncpg

from relay.config import Config
from relay.store import redis
from relay.store.embedded.locate import database_url, redis_url
from tests.live.relay_process import RelayProcess, family


def encodings(secret: str) -> dict[str, bytes]:
    """Return what to look for, by the name of its form."""
    raw = secret.encode()
    found = {
        "plain": raw,
        "hex": raw.hex().encode(),
        "url": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "json": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
        "utf-16-le": secret.encode("utf-16-le"),
        "utf-16-be": secret.encode("utf-16-be"),
    }
    for shift, spoilt in ((0, 0), (1, 2), (2, 3)):
        # Of a text that begins `shift` bytes into a group of three, the neighbours decide the
        # first characters and the last group.
        encoded = base64.b64encode(b"\0" * shift + raw)
        found[f"base64+{shift}"] = encoded[spoilt:-4]
    return found


def traces(secret: str, places: dict[str, bytes]) -> set[tuple[str, str]]:
    """Return (where, in which form) a secret is found."""
    wanted = encodings(secret).items()
    return {
        (place, form)
        for place, content in places.items()
        for form, needle in wanted
        if needle in content
    }


async def all_places(relay: RelayProcess) -> dict[str, bytes]:
    """Return everything that the relay has written or says, by where it is."""
    places = {f"table {name}": text for name, text in (await _tables(relay)).items()}
    places |= {f"valkey {name}": text for name, text in (await _valkey(relay)).items()}
    places |= _processes(relay)
    await relay.figures_published()
    places["words"] = relay.words.read_bytes()
    places["metrics"] = (await relay.metrics()).encode()
    for path in relay.data_dir.rglob("*"):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):
                places[str(path.relative_to(relay.data_dir))] = path.read_bytes()
    return places


def _processes(relay: RelayProcess) -> dict[str, bytes]:
    """Return what anybody may read of the processes, and what their own user may."""
    found: dict[str, bytes] = {}
    for process in family(relay.process.pid):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                content = Path(f"/proc/{process.pid}/{name}").read_bytes()
                found[f"{name} of {process.program} {process.pid}"] = content
    return found


async def _tables(relay: RelayProcess) -> dict[str, bytes]:
    """Return each table as the text that a dump would hold; all of it is on disk afterwards."""
    found: dict[str, bytes] = {}
    connection = await asyncpg.connect(database_url(Config(), relay.data_dir))
    try:
        names = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200"
        )
        for (name,) in names:  # 2200: public
            parts: list[bytes] = []

            async def take(part: bytes, parts: list[bytes] = parts) -> None:
                parts.append(part)

            await connection.copy_from_table(name, output=take)
            found[name] = b"".join(parts)
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return found


async def _valkey(relay: RelayProcess) -> dict[str, bytes]:
    """Return each key's value as it reads; what is in memory is in the dump file afterwards."""
    found: dict[str, bytes] = {}
    url = redis_url(Config(), relay.data_dir)
    async with redis.connect(url, application="canary") as client:
        async for key in client.scan_iter():
            found[key.decode()] = key + await _value(client, key)
        await client.save()
    return found


async def _value(client: Any, key: bytes) -> bytes:
    kind = (await client.type(key)).decode()
    if kind == "string":
        return bytes(await client.get(key) or b"")
    if kind == "stream":
        return repr(await client.xrange(key)).encode()
    reading = {
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return repr(await reading[kind](key)).encode()
