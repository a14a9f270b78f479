"""Goal: what a call costs is what README says, on thousands of calls of every kind.

Method: random calls go through the relay's own reading, admission of prices and settlement; the
cost in the journal is compared, to the nano-dollar, with a second opinion in plain decimals that
knows what was really used.
"""

import random
from decimal import Decimal
from typing import Any, cast

import pytest

from relay.billing.tariff import Tariff
from relay.config import Switching
from relay.edge.question import read_question
from relay.errors import ClientGone
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.ports import Client
from relay.flow.request import RequestHead, Rights
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.flow.reserve.reservations import Reservations
from relay.flow.response import Response
from relay.flow.settle import Settlement
from relay.model import Account, Channel, Group, Key, Line, Price, Secret
from relay.records import (
    BATCH_ENDPOINTS,
    FREE_ENDPOINTS,
    MULTIPART_ENDPOINTS,
    SESSION_ENDPOINTS,
    CallCheckpoint,
    CallEnd,
    CallStart,
    Endpoint,
)
from relay.stage import COMMITTED
from relay.store.catalog.declaration import (
    ImagePriceEntry,
    PriceEntry,
    PriceTierEntry,
    ServiceTierEntry,
    VideoPriceEntry,
)
from relay.store.catalog.prices import to_price
from relay.units import NANOS_PER_USD, parse_multiplier
from relay.wire.state.jobs import job_of
from relay.wire.usage.reader import find_media_usage, find_usage_of_body
from tests.flow.rig import make_channel
from tests.flow.test_zero_window import ScriptedClient
from tests.oracle.calls import KINDS, Asked, make_price
from tests.oracle.gemini_calls import embed, generate
from tests.oracle.opinion import PriceList, Used, cost_usd
from tests.oracle.plain_calls import judged, pictures, whole_chat

CALLS = 2_500
CALLS_PER_PRICE = 50
FORM = "multipart/form-data; boundary=b"
EVERY_KIND = (*KINDS, generate, generate, embed, whole_chat, judged, pictures)
CUT_KINDS = 6
"""Chat, completions, responses, messages and Gemini's streams."""


class KeepingJournal:
    """Keeps the ends of calls."""

    healthy = True

    def __init__(self) -> None:
        self.ends: list[CallEnd] = []

    def start(self, record: CallStart) -> None:
        """Forget it."""

    def checkpoint(self, record: CallCheckpoint) -> None:
        """Forget it."""

    def end(self, record: CallEnd) -> None:
        """Keep it."""
        self.ends.append(record)


def paying_attempt(call: Call, tail: StreamTail) -> StreamAttempt:
    """Return the attempt that a client pays for, which has heard so much."""
    call.response = Response(ScriptedClient(), call.id)
    attempt = StreamAttempt(call, make_channel(1, 1), lambda _: None, lambda _: None, Switching())
    attempt._tail = tail
    return attempt


def priced(listed: PriceList, number: int) -> Price:
    entry = PriceEntry(
        model="m",
        model_multiplier=str(listed.model_multiplier),
        service_tiers=[
            ServiceTierEntry(name=name, **rates) for name, rates in listed.tiers.items()
        ],
        tiers=[PriceTierEntry(above_tokens=above, **rates) for above, rates in listed.long],
        image_classes=[
            ImagePriceEntry(quality=quality, size=size, each=usd)
            for (quality, size), usd in listed.classes.items()
        ],
        video_classes=[
            VideoPriceEntry(per_second=usd, size=size) for size, usd in listed.video_sizes.items()
        ],
        **cast("Any", listed.words),
    )
    price = to_price(entry)
    return Price(
        **{name: getattr(price, name) for name in price.__struct_fields__} | {"id": number}
    )


def admitted(asked: Asked, price: Price, group_multiplier: str) -> Call:
    call = Call(bytes(16), cast("Client", None), 0)
    content_type = FORM if asked.endpoint in MULTIPART_ENDPOINTS else "application/json"
    dialect = asked.endpoint.dialect
    query = "alt=sse" if asked.endpoint is Endpoint.STREAM_GENERATE else ""
    call.head = RequestHead(
        asked.endpoint, b"", "192.0.2.7", content_type, dialect, query, b"", model=asked.model
    )
    read_question(call, content_type, asked.body)
    group = Group(id=1, name="g", line_ids=(1,), multiplier_ppm=parse_multiplier(group_multiplier))
    call.rights = Rights(
        Key(id=1, account_id=1, name="k", digest=b"", last4=""),
        Account(id=1, name="a", group_id=1),
        group,
        Line(id=1, name="l", channel_ids=(1,)),
        Tariff(price, group.multiplier_ppm),
    )
    call.channel = Channel(id=1, name="c", base_url="", api_key=Secret(""), models={})
    return call


def answered(call: Call, asked: Asked, settlement: Settlement) -> None:
    """Let the answer go by, whole or to where its client leaves, and settle the call."""
    if asked.cut == 0 and asked.endpoint is not Endpoint.VIDEOS:
        settlement.fail(call, ClientGone("gone"))
        return
    call.stage, call.attempt_count = COMMITTED, 1
    tail = StreamTail()
    call.payer = paying_attempt(call, tail)
    if not call.request.stream:
        (body,) = asked.events
        call.bytes_out = len(body)
        job = job_of(asked.endpoint).read_end(body) if asked.endpoint is Endpoint.VIDEOS else None
        call.usage = find_usage_of_body(body) or find_media_usage(body, asked.endpoint)
        if job is not None:
            call.usage = job.usage
        settlement.complete(call)
        return
    for event in asked.events[: asked.cut]:
        tail.note(event)
        call.bytes_out += len(event)
        call.events_out += 1
    if asked.cut is None:
        call.usage = tail.usage()
        settlement.complete(call)
    else:
        settlement.fail(call, ClientGone("gone"))


def as_delivered(asked: Asked, end: CallEnd) -> Used:
    """Return what an aborted call is charged for: the prompt as told, the output as estimated."""
    used = asked.used
    if not asked.told_input:
        used = Used(fresh=end.input_tokens, searches=used.searches, sessions=used.sessions,
                    tier=used.tier)  # fmt: skip
    used.reasoning = end.reasoning_tokens
    used.text, used.audio_out, used.image_out = end.output_tokens - used.reasoning, 0, 0
    return used


@pytest.mark.parametrize("seed", [20261130, 7])
def test_the_relay_and_the_oracle_agree(seed: int) -> None:
    dice = random.Random(seed)
    journal = KeepingJournal()
    settlement = Settlement(journal, Counters(), KeyQuotas(), Reservations(()))
    waiting: list[tuple[Call, Asked, PriceList, str]] = []
    kinds: set[tuple[Endpoint, bool]] = set()
    for number in range(CALLS):
        if number % CALLS_PER_PRICE == 0:  # calls under way keep the price they were admitted by
            listed = make_price(dice)
            price = priced(listed, number + 1)
        asked = dice.choice(EVERY_KIND)(dice, listed)
        group = dice.choice(("1", "0.8", "0.123457", "2"))
        waiting.append((admitted(asked, price, group), asked, listed, group))
        if len(waiting) < CALLS_PER_PRICE // 2 and number + 1 < CALLS:
            continue
        call, asked, listed_then, group = waiting.pop(dice.randrange(len(waiting)))
        answered(call, asked, settlement)
        end = journal.ends[-1]
        expected = expected_nanos(asked, end, listed_then, group)
        assert end.cost_nanos == int(expected), (number, asked, end)
        kinds.add((asked.endpoint, asked.cut is not None))
    assert len(journal.ends) >= 2_000
    endpoints = {endpoint for endpoint, _ in kinds}
    # Sessions of voice are charged as responses are, a remix as a video is; what is free is
    # admitted without a price.
    # A batch is many calls, counted by its results: tests/flow/test_batches.py.
    unasked = FREE_ENDPOINTS | SESSION_ENDPOINTS | BATCH_ENDPOINTS | {Endpoint.VIDEO_REMIX}
    assert set(Endpoint) - endpoints <= unasked
    assert len(kinds) == len(endpoints) + CUT_KINDS


def expected_nanos(asked: Asked, end: CallEnd, listed: PriceList, group: str) -> Decimal:
    """Return what the oracle says of a call, by what it used as far as anybody can know that."""
    used = asked.used
    if asked.cut == 0:  # nothing was delivered
        assert (end.input_tokens, end.output_tokens) == (0, 0)
        return Decimal(0)
    if asked.cut is not None:
        assert end.estimated
        if asked.endpoint is not Endpoint.STREAM_GENERATE:  # which tells how far it is
            assert end.output_tokens <= 2 * asked.text_tokens + 1
        used = as_delivered(asked, end)
    elif not asked.says:  # sound, ranks, vectors: tokens are a guess, and marked
        assert end.estimated or not end.input_tokens
        used.fresh, used.text = end.input_tokens, end.output_tokens
    return cost_usd(used, listed, Decimal(group)) * NANOS_PER_USD
