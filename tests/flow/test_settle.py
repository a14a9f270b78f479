"""Goal: each field of a call's record says what the call knew of just that.

Method: a call whose values are all different is settled; the record is read field by field. (A
record is made of 34 values in a row: by name it costs four times as much.)
"""

from typing import cast

import msgspec

from relay.billing.tariff import Tariff
from relay.extras import Extras
from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.ports import Client
from relay.flow.request import RequestFacts, RequestHead, Rights
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.flow.reserve.reservations import Reservations
from relay.flow.settle import Settlement
from relay.model import Account, Channel, Dialect, Group, Key, Line, Price, Secret
from relay.records import CallCheckpoint, CallEnd, CallStart, Endpoint, FailedTry
from relay.stage import COMMITTED
from relay.usage import Usage

PRICE = Price(
    id=61, model="m", input=10**9, cached_input=10**8, output=10**9, model_multiplier_ppm=1_500_000
)
USAGE = Usage(
    1_000, 11, 12, 113, 14, 5, 16, 17, 18, 19, 21, estimated=True, extras=Extras(searches=2)
)


class KeepingJournal:
    """Keeps what it is told."""

    healthy = True

    def __init__(self) -> None:
        self.ends: list[CallEnd] = []
        self.checkpoints: list[CallCheckpoint] = []

    def start(self, record: CallStart) -> None:
        raise AssertionError("a call is started by the exchange")

    def checkpoint(self, record: CallCheckpoint) -> None:
        self.checkpoints.append(record)

    def end(self, record: CallEnd) -> None:
        self.ends.append(record)


def different_call() -> Call:
    call = Call(bytes(range(16)), cast("Client", None), 1_764_000_000_000_000)
    call.head = RequestHead(
        Endpoint.EMBEDDINGS, b"", "192.0.2.7", "application/json", Dialect.OPENAI, "", b""
    )
    call.request = RequestFacts("asked", stream=True, input_estimate=77)
    call.rights = Rights(
        Key(id=31, account_id=32, name="k", digest=b"", last4=""),
        Account(id=32, name="a", group_id=33),
        Group(id=33, name="g", line_ids=(34,)),
        Line(id=34, name="l", channel_ids=(35,)),
        Tariff(PRICE, 800_000),
    )
    call.channel = Channel(id=35, name="c", base_url="", api_key=Secret(""), models={})
    call.served_model = "served"
    call.stage = COMMITTED
    call.usage = USAGE
    call.attempt_count = 3
    call.begun_s, call.first_byte_s = 100.0, 100.25
    call.failed_tries = (FailedTry(36, "cut", 0, 1, 2),)
    return call


def settled() -> tuple[KeepingJournal, Settlement]:
    journal = KeepingJournal()
    return journal, Settlement(journal, Counters(), KeyQuotas(), Reservations(()))


def test_each_field_of_the_end_is_its_own() -> None:
    journal, settlement = settled()
    settlement.complete(different_call())
    (end,) = journal.ends
    told = msgspec.structs.asdict(end)
    total_us = told.pop("total_us")
    assert told.pop("time_us") == 1_764_000_000_000_000 + total_us
    usage = {name: getattr(USAGE, name) for name in told if hasattr(USAGE, name)}
    assert told == usage | {
        "request_id": bytes(range(16)),
        "account_id": 32,
        "key_id": 31,
        "ip": "192.0.2.7",
        "endpoint": "embeddings",
        "model": "asked",
        "line_id": 34,
        "stream": True,
        "channel_id": 35,
        "served_model": "served",
        "status": 200,
        "reason": "completed",
        "ttft_us": 250_000,
        "attempts": 3,
        "cost_nanos": Tariff(PRICE, 800_000).cost_nanos(USAGE),
        "price_id": 61,
        "group_multiplier_ppm": 800_000,
        "model_multiplier_ppm": 1_500_000,
        "error_code": "",
        "retry_nanos": 0,
        "tries": (FailedTry(36, "cut", 0, 1, 2),),
        "translated": "",
    }


def test_each_field_of_a_checkpoint_is_its_own() -> None:
    journal, settlement = settled()
    settlement.checkpoint(different_call())
    (told,) = journal.checkpoints
    assert told == CallCheckpoint(
        bytes(range(16)),
        35,
        output_estimate=113,
        input_tokens=1_000,
        cached_tokens=11,
        cache_write_tokens=12,
        reasoning_tokens=14,
        cost_nanos=Tariff(PRICE, 800_000).cost_nanos(USAGE),
        price_id=61,
        group_multiplier_ppm=800_000,
        model_multiplier_ppm=1_500_000,
        cache_write_1h_tokens=5,
        audio_input_tokens=16,
        audio_output_tokens=17,
        image_input_tokens=18,
        image_output_tokens=19,
        images=21,
        extras=Extras(searches=2),
    )
