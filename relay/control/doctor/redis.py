"""Is Redis there, fast and new enough, and does it keep what it is given?"""

import time
from typing import Any, Final

from relay.control.doctor.diagnosis import Diagnosis, judge
from relay.control.doctor.postgres import judge_latency
from relay.store.limits.resp import RespConnection

LATENCY_MS_MAX: Final = 5.0
"""Leases are asked for ahead of need, but a burst of new lines waits one round trip."""
ASKS: Final = 5
VERSION_MIN: Final = (6, 2)
KEEPS: Final = "noeviction"


async def check_redis(connection: RespConnection, where: str) -> list[Diagnosis]:
    """Judge the server behind a connection; `where` tells several apart ("" = the only one)."""
    took_ms = []
    for _ in range(ASKS):
        began_s = time.perf_counter()
        await connection.ask([("PING",)])
        took_ms.append((time.perf_counter() - began_s) * 1000)
    [answer] = await connection.ask([("INFO",)])
    told = read_told(answer)
    suffix = f" {where}" if where else ""
    version = told.get("valkey_version") or told.get("redis_version", "")
    policy = told.get("maxmemory_policy", "")
    bounded = told.get("maxmemory", "0") != "0"
    return [
        judge_latency(f"redis latency{suffix}", min(took_ms), LATENCY_MS_MAX),
        judge(
            f"redis version{suffix}",
            version or "unknown",
            "upgrade to Redis 6.2 or Valkey 7.2",
            ok=_version(version) >= VERSION_MIN,
        ),
        judge(
            f"redis memory{suffix}",
            f"{policy}, at most {told.get('maxmemory_human', '?')}" if bounded else "unbounded",
            f"redis-cli CONFIG SET maxmemory-policy {KEEPS}: an evicted bucket is full again",
            ok=not bounded or policy == KEEPS,
        ),
    ]


def read_told(answer: Any) -> dict[str, str]:
    """Return the fields of an INFO answer; none of what is not one."""
    if not isinstance(answer, bytes):
        return {}
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value.strip() for name, colon, value in pairs if colon}


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")[:2]
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else ()
