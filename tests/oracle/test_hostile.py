"""Goal: what a hostile customer can owe beyond its balance is bounded, and is what README says.

Method: 1,000 calls, as many under way at once as credit allows, each of which costs the most that
an honest provider can charge for it; the worst order found at random is what is compared.
"""

import json
import random
from typing import Any, cast

import msgspec
import pytest

from relay.billing.purse import Purse
from relay.billing.tariff import Tariff
from relay.config import Billing
from relay.edge.question import read_question
from relay.extras import Extras
from relay.flow.call import Call
from relay.flow.ports import Client
from relay.flow.request import RequestHead, Rights
from relay.flow.reserve.holds import Holds
from relay.model import Dialect, Price, PriceDetail, ServiceTier
from relay.records import Endpoint
from relay.units import PPM, parse_usd
from relay.usage import Usage

CALLS = 1_000
OUTPUT_MAX = 16_384
PRICE = Price(
    id=1,
    model="m",
    input=parse_usd("3"),
    output=parse_usd("15"),
    cached_input=parse_usd("0.3"),
    cache_write=parse_usd("3.75"),
    detail=PriceDetail(
        cache_write_1h=parse_usd("6"),
        audio_output=parse_usd("80"),
        per_image=parse_usd("0.2"),
        character=parse_usd("15"),
        per_search=parse_usd("0.01"),
        per_session=parse_usd("0.03"),
        service_tiers=(
            ServiceTier(
                name="priority",
                input=parse_usd("6"),
                output=parse_usd("30"),
                cached_input=parse_usd("0.6"),
            ),
        ),
        output_max=OUTPUT_MAX,
    ),
)
ENDPOINTS = (
    *(Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.COMPLETIONS),
    *(Endpoint.GENERATE, Endpoint.IMAGES, Endpoint.SPEECH, Endpoint.EMBEDDINGS),
)
BOUND = {
    Endpoint.CHAT: "max_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
    Endpoint.GENERATE: "maxOutputTokens",
}
"""What says how long each of several answers may be."""
TIMES_BALANCE = 6
"""README: a customer owes at most so many times what it had."""


def admitted(body: dict[str, Any], endpoint: Endpoint) -> Call:
    call = Call(bytes(16), cast("Client", None), 0)
    dialect = endpoint.dialect
    named = "m" if endpoint.dialect is Dialect.GEMINI else ""
    call.head = RequestHead(endpoint, b"", "", "application/json", dialect, "", b"", model=named)
    read_question(call, "application/json", json.dumps({"model": "m", **body}).encode())
    call.rights = Rights(tariff=Tariff(PRICE, PPM))
    return call


def hostile(dice: random.Random) -> tuple[Call, Usage]:
    """Return a call that looks small, and the most that a provider can charge for it."""
    dense = "\u2603\U0001f9ff" * dice.randint(1, 400)  # a token a byte, or nearly
    endpoint = dice.choice(ENDPOINTS)
    choices, bound = 1, OUTPUT_MAX
    if endpoint is Endpoint.IMAGES:
        choices = dice.randint(1, 10)
        call = admitted({"prompt": dense, "n": choices}, endpoint)
        return call, Usage(call.request.body_bytes, images=choices)
    if endpoint is Endpoint.SPEECH:
        call = admitted({"input": dense}, endpoint)
        return call, Usage(extras=Extras(characters=len(dense)))
    if endpoint is Endpoint.EMBEDDINGS:
        call = admitted({"input": dense}, endpoint)
        return call, Usage(call.request.body_bytes)
    body: dict[str, Any] = {"messages": dense, "input": dense, "prompt": dense, "contents": dense}
    # Bounds that the endpoint does not know, or that bound nothing.
    body |= dice.choice(({}, {"max_tokens": 0}, {"max_completion_tokens": -1}))
    known_not = {Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.COMPLETIONS, Endpoint.GENERATE}
    body |= {"max_output_tokens" if endpoint in known_not else "max_tokens": 1}
    if endpoint in BOUND and dice.random() < 0.5:
        choices, bound = dice.choice((1, 8, 128)), dice.choice((1, 16, 4_096))
        several: dict[str, Any] = {"n": choices, BOUND[endpoint]: bound}
        if endpoint is Endpoint.GENERATE:
            several = {"generationConfig": {"candidateCount": choices, BOUND[endpoint]: bound}}
        body |= several
    extras = Extras()
    if dice.random() < 0.3:
        body["service_tier"] = "priority"
        extras = Extras(tier="priority")
    if endpoint is Endpoint.RESPONSES and dice.random() < 0.3:
        body["tools"] = [{"type": "web_search"}, {"type": "code_interpreter"}]
        extras = msgspec.structs.replace(extras, searches=10, sessions=1)
    if endpoint is Endpoint.GENERATE and dice.random() < 0.3:
        body["tools"] = {"googleSearch": {}}
        extras = msgspec.structs.replace(extras, searches=10)
    call = admitted(body, endpoint)
    output = bound * choices
    given = call.request.body_bytes
    return call, Usage(
        given, 0, given, output, cache_write_1h_tokens=given, audio_output_tokens=output,
        extras=extras,
    )  # fmt: skip


@pytest.mark.parametrize("balance", ["0.05", "1", "40"])
@pytest.mark.parametrize("seed", range(8))
def test_a_thousand_hostile_calls_owe_no_more_than_is_said(balance: str, seed: int) -> None:
    dice = random.Random(seed)
    holds, tariff = Holds(Billing()), Tariff(PRICE, PPM)
    had = parse_usd(balance)
    purse = Purse(had)
    under_way: list[tuple[int, int]] = []
    for _ in range(CALLS):
        call, usage = hostile(dice)
        held = holds.nanos(call)
        assert held > 0
        if purse.hold(held):
            under_way.append((held, tariff.cost_nanos(usage)))
        elif under_way and dice.random() < 0.2:
            purse.settle(*under_way.pop(dice.randrange(len(under_way))))
    for held, cost in under_way:
        purse.settle(held, cost)
    assert purse.held_nanos == 0
    assert -purse.leased_nanos <= TIMES_BALANCE * had
    assert not purse.hold(1) or purse.leased_nanos > 0  # who owes anything is not served
