"""Goal: the Lua scripts and the Python arithmetic give the same replies, to the last digit.

Method: random sequences over several buckets are sent in pipelines to a real server, with a time of
ours in place of TIME, and without the expiry, which runs on the server's own clock; each reply and
each kept value is compared. The rest is asked of the scripts as they are.
"""

import asyncio
import random
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from relay.limits.bucket import (
    MINUTE_MS,
    BucketQuestion,
    BucketRequest,
    Buckets,
    CallRequest,
    Rule,
    read_reply,
)
from relay.limits.permits import grant_permits
from relay.store.limits.resp import RespConnection, Script, connect

pytestmark = pytest.mark.live

SEQUENCES = 2_000
STEPS = 40
HOURS_MS = (900, 900, 900, 3_600_000, -3_600_000, -86_400_000)
"""Now and then a clock is set anew."""
KEYS = [f"{{t}}:{number}" for number in range(8)]
GUARD = "{t}:born"
EPOCH_MS = 60_000_000_000.0
ADMIT = Script("admit.lua")
SLOTS = Script("slots.lua")


def at_our_time() -> bytes:
    """Return admit.lua on the clock of ARGV[2], with keys that stay."""
    text = ADMIT.text.replace(
        b"local now = (time[1] - 1735689600) * 1000 + time[2] / 1000",
        b"local now = tonumber(ARGV[2])",
    )
    text = text.replace(b", 'PX', math.ceil(used))", b")")
    assert text.count(b"ARGV[2]") == 1 and b"PX" not in text
    return text


def random_question(dice: random.Random, rules: dict[str, Rule]) -> BucketQuestion:
    keys = dice.sample(KEYS, dice.randint(1, 5))
    keys += dice.sample(keys, dice.randint(0, len(keys)))  # several classes bid on one bucket
    requests = tuple(
        BucketRequest(k, bidding(dice, rules[k]), dice.choice([0, 0, dice.randint(1, 20_000)]))
        for k in keys
    )
    calls = []
    for _ in range(dice.randint(0, 5)):
        force = dice.random() < 0.3
        places = dice.sample(range(len(keys)), dice.randint(1, len(keys)))
        low = -5_000 if force else 0
        top = dice.choice([3, 500, 20_000, 2_000_000])
        draws = tuple((place, dice.randint(low, top)) for place in places)
        calls.append(CallRequest(draws, force, hold=not force and dice.random() < 0.1))
    return BucketQuestion(requests, tuple(calls))


def bidding(dice: random.Random, rule: Rule) -> Rule:
    """Return a rule as one of the classes sees it."""
    kept_ms = dice.choice([0, 0, rule.burst_ms // 10, rule.burst_ms // 5, dice.randint(0, 5_000)])
    return msgspec.structs.replace(rule, kept_ms=kept_ms)


def random_rules(dice: random.Random) -> dict[str, Rule]:
    return {
        key: Rule(
            dice.choice([1, 7, 60, 10_007, 1_000_000, 30_000_000]),
            dice.choice([5_500, 6_000, 60_000]),
            dice.choice([0, 0, 1_000]),
        )
        for key in KEYS
    }


async def test_lua_and_python_agree(redis_url: str) -> None:
    connection = await connect(redis_url)
    text = at_our_time()
    for seed in range(SEQUENCES):
        await compare_sequence(connection, text, random.Random(seed), seed)
    connection.close()
    await asyncio.sleep(0)  # The loop closes the socket in its next round.


async def compare_sequence(
    connection: RespConnection, text: bytes, dice: random.Random, seed: int
) -> None:
    rules = random_rules(dice)
    reference = Buckets()
    now_ms = EPOCH_MS + dice.randint(0, 10**9) / 1_000
    commands: list[tuple[bytes | str | int, ...]] = [("FLUSHDB",)]
    expected: list[Any] = [b"OK"]
    for _ in range(STEPS):
        # Time may step back: after a failover the new primary's clock may be behind.
        now_ms += dice.choice([0, 0.001, 1, 17.25, 900, 20_000, -3, dice.choice(HOURS_MS)])
        question = random_question(dice, rules)
        asked = msgspec.msgpack.encode(question.flatten())
        keys = [request.key for request in question.requests]
        commands.append(("EVAL", text, len(keys) + 1, *keys, GUARD, asked, f"{now_ms:.3f}"))
        expected.append(reference.answer(question, float(f"{now_ms:.3f}")))
        read_reply(question, expected[-1])
    commands += [("MGET", *KEYS)]
    kept = [reference.tats.get(key) for key in KEYS]
    expected.append([None if tat is None else b"%.6f" % tat for tat in kept])
    for step, pair in enumerate(zip(await connection.ask(commands), expected, strict=True)):
        assert pair[0] == pair[1], f"seed {seed}, step {step}"


async def test_keys_live_as_long_as_the_bucket_is_not_full(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    await client.set(GUARD, "0")
    rule = Rule(60_000, 6_000)
    question = BucketQuestion((BucketRequest(KEYS[0], rule),), (CallRequest(((0, 2_000),)),))
    decision, leased, used_ms = await admit(client, question)
    assert (decision, leased) == (0, 0) and used_ms == 2_000
    assert 1_000 < await client.pttl(KEYS[0]) <= 2_000
    assert await client.pttl(GUARD) == -1
    back = BucketQuestion(
        (BucketRequest(KEYS[0], rule),), (CallRequest(((0, -5_000),), force=True),)
    )
    assert (await admit(client, back))[2] == 0
    assert not await client.exists(KEYS[0])
    await client.aclose()


async def test_an_emptied_server_hands_out_no_second_burst(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    rule = Rule(MINUTE_MS, 6_000)
    question = BucketQuestion((BucketRequest(KEYS[0], rule),), (CallRequest(((0, 3_000),)),))
    [code, *_] = await admit(client, question)
    assert 2_000 * 256 < code <= 3_000 * 256 + 1
    await client.aclose()


async def admit(client: Redis, question: BucketQuestion) -> list[int]:
    keys = [request.key for request in question.requests]
    asked = msgspec.msgpack.encode(question.flatten())
    found: list[int] = await client.eval(ADMIT.text.decode(), len(keys) + 1, *keys, GUARD, asked)
    return found


async def test_blocks_of_seats_are_as_python_says(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    dice = random.Random(1)
    held: dict[str, int] = {}
    for _ in range(300):
        worker, rank = f"w{dice.randint(0, 3)}", dice.choice([0, 0, 1, 2])
        field = f"{worker}/{rank}" if rank else worker
        permits, used = dice.choice([0, 3, 40, 500]), dice.choice([0, 0, 1, 5, 30])
        need, spare = dice.randint(0, 4), dice.randint(0, 6)
        others = sum(block for name, block in held.items() if name != field)
        asked = msgspec.msgpack.encode([permits, used, need, spare, rank])
        [block] = await slots(client, worker, 15_000, asked)
        assert block == grant_permits(permits, others, used, need, spare)
        held[field] = block
        kept = await client.hkeys("{t}:seats")
        assert set(kept) == {name.encode() for name, n in held.items() if n}
    assert 0 < await client.pttl("{t}:seats") <= 15_000
    await client.aclose()


async def test_a_dead_worker_loses_its_seats(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    full = msgspec.msgpack.encode([4, 4, 0, 0, 0])
    assert await slots(client, "dead", 30, full) == [4]
    one = msgspec.msgpack.encode([4, 0, 1, 0, 0])
    await slots(client, "alive", 15_000, msgspec.msgpack.encode([9, 0, 1, 0, 0]))
    async with asyncio.timeout(5):
        while await slots(client, "late", 15_000, one) == [0]:
            pass
    assert b"dead" not in await client.hkeys("{t}:seats")
    await client.aclose()


async def test_a_clock_that_is_set_back_keeps_no_dead_workers_seats(redis_url: str) -> None:
    """They live on for one life of a block, as if it had just been renewed, and no hour."""
    client = Redis.from_url(redis_url)
    now_ms = await server_ms(client)
    await client.hset("{t}:seats", "dead", f"4:{now_ms + 3_600_000}")
    one = msgspec.msgpack.encode([4, 0, 1, 0, 0])
    assert await slots(client, "late", 200, one) == [0]
    [kept] = await client.hmget("{t}:seats", ["dead"])
    assert isinstance(kept, bytes)
    till = int(kept.split(b":")[1])
    assert till <= await server_ms(client) + 200
    await slots(client, "alive", 15_000, msgspec.msgpack.encode([9, 0, 1, 0, 0]))
    async with asyncio.timeout(5):
        while await slots(client, "late", 200, one) == [0]:
            pass
    await client.aclose()


async def server_ms(client: Redis) -> int:
    seconds, micros = await client.time()
    return int((seconds - 1_735_689_600) * 1_000 + micros // 1_000)


async def slots(client: Redis, worker: str, ttl_ms: int, asked: bytes) -> list[int]:
    found: list[int] = await client.eval(SLOTS.text.decode(), 1, "{t}:seats", worker, ttl_ms, asked)
    return found
