"""Goal: addresses are counted within bounds, lists are obeyed, and each code says what it was.

Method: the table of a worker with a clock of the test's: floods of wrong keys, lists of thousands
of networks against a plain search, memory under a million addresses.
"""

import random
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from relay.door_rules import DoorRules
from relay.limits.addresses import (
    Addresses,
    Rule,
    address_key,
    block_code,
    read_code,
    rule_code,
)
from relay.model import Block

IP = "203.0.113.9"
RULES = DoorRules(wrong_keys_max=3, wrong_keys_refused=10, refused_s=60.0)


def a_block(id_: int, network: str | None = None, **fields: object) -> Block:
    found = None if network is None else ip_network(network)
    return Block(id=id_, network=found, **fields)  # type: ignore[arg-type]


def refused(
    table: Addresses, ip: str, path: str = "/v1/chat/completions", wall_s: float = 0
) -> str:
    verdict = table.look(table.find(ip), path, 0.0, wall_s)
    return "" if verdict is None else verdict.code


def test_wrong_keys_are_answered_then_throttled_then_refused_for_a_while() -> None:
    table = Addresses(RULES)
    visitor = table.enter(IP)
    told = [table.note_wrong_key(visitor, at / 10, 0) for at in range(12)]
    assert told[:3] == [None] * 3
    assert [verdict and verdict.refuses for verdict in told[3:]] == [False] * 7 + [True] * 2
    assert table.is_refused(visitor, 60.0)
    assert not table.is_refused(visitor, 61.2)
    assert table.note_wrong_key(visitor, 70.0, 0) is None


def test_a_refused_address_may_have_few_connections() -> None:
    table = Addresses(RULES)
    visitor = table.enter(IP)
    for _ in range(12):
        table.note_wrong_key(visitor, 0.0, 0)
    table.enter(IP)
    assert not table.crowds(visitor, 1.0, refused_max=2)
    table.enter(IP)
    assert table.crowds(visitor, 1.0, refused_max=2)
    assert not table.crowds(visitor, 100.0, refused_max=2)


def test_who_is_on_the_allow_list_may_try_keys_and_connect() -> None:
    table = Addresses(DoorRules(connections_max=1, wrong_keys_max=1, wrong_keys_refused=2))
    table.swap((a_block(1, "203.0.113.0/24", allow=True), a_block(2, "0.0.0.0/0")))
    visitor = table.enter(IP)
    table.enter(IP)
    assert not table.crowds(visitor, 0.0, refused_max=1)
    assert [table.note_wrong_key(visitor, 0.0, 0) for _ in range(9)] == [None] * 9
    assert refused(table, IP) == ""
    assert refused(table, "198.51.100.1") == "B-2"


def test_a_narrow_entry_names_the_refusal_and_an_ended_one_does_not_count() -> None:
    table = Addresses(RULES)
    table.swap(
        (
            a_block(1, "203.0.0.0/16"),
            a_block(2, "203.0.113.0/24", expires_s=100),
            a_block(3, None, path="/v1/images"),
        )
    )
    assert refused(table, IP, wall_s=99) == "B-2"
    assert refused(table, IP, wall_s=100) == "B-1"
    assert refused(table, "198.51.100.1", "/v1/images/generations") == "B-3"
    assert refused(table, "198.51.100.1") == ""
    table.swap(())
    assert not table.watches
    assert refused(table, IP) == ""


def test_requests_are_bounded_for_each_address_and_64() -> None:
    table = Addresses(DoorRules(rpm=60))
    one, other = table.find("2001:db8::1"), table.find("2001:db8::ffff:1")
    assert one is other
    told = [table.look(one, "/", 0.0, 0) for _ in range(7)]
    assert told[:6] == [None] * 6
    assert told[6] is not None
    assert (told[6].rule, told[6].wait_s, told[6].refuses) == (Rule.REQUESTS, 1.0, False)
    assert table.look(one, "/", 1.0, 0) is None
    assert table.look(table.find("2001:db8:0:1::1"), "/", 0.0, 0) is None


def test_thousands_of_networks_match_as_a_plain_search_does() -> None:
    dice = random.Random(7)
    nets: list[IPv4Network | IPv6Network] = []
    for _ in range(2_000):
        nets.append(
            IPv4Network((dice.getrandbits(32), dice.choice([8, 16, 20, 24, 32])), strict=False)
        )
        nets.append(IPv6Network((dice.getrandbits(128), dice.choice([32, 48, 64])), strict=False))
    blocks = tuple(Block(id=at, network=network) for at, network in enumerate(nets))
    table = Addresses(RULES)
    table.swap(blocks)
    for _ in range(3_000):
        number = dice.getrandbits(32)
        ip = (
            str(ip_address(number))
            if dice.random() < 0.5
            else str(IPv6Network((dice.getrandbits(128), 128)).network_address)
        )
        if dice.random() < 0.5:
            ip = str(dice.choice(nets).network_address)
        address = ip_address(ip)
        inside = [b for b in blocks if b.network is not None and address in b.network]
        longest = max((b.network.prefixlen for b in inside if b.network), default=-1)
        code = refused(table, ip)
        assert (code == "") == (not inside)
        if inside:
            assert code in {
                block_code(b.id) for b in inside if b.network and b.network.prefixlen == longest
            }


def test_memory_is_bounded_and_who_is_connected_is_kept() -> None:
    table = Addresses(DoorRules(addresses_max=1_000, wrong_keys_max=5, wrong_keys_refused=10))
    kept = table.enter("192.0.2.1")
    for number in range(100_000):
        visitor = table.find(str(ip_address(0x0A00_0000 + number)))
        table.note_wrong_key(visitor, 0.0, 0)
    assert len(table) <= 1_000
    assert table.find("192.0.2.1") is kept


def test_an_address_that_did_nothing_is_forgotten_with_its_connection() -> None:
    table = Addresses(RULES)
    for number in range(1_000):
        visitor = table.enter(str(ip_address(0x0A00_0000 + number)))
        table.leave(visitor, 1_000.0)
    assert len(table) == 0


@pytest.mark.parametrize("ip", [IP, "2001:db8:1:2:3:4:5:6", "::ffff:203.0.113.9"])
@pytest.mark.parametrize("rule", [Rule.WRONG_KEYS, Rule.REQUESTS, Rule.CONNECTIONS])
def test_a_code_says_its_rule_and_its_address(ip: str, rule: Rule) -> None:
    key = address_key(ip)
    found = read_code(rule_code(rule, key).lower())
    assert found == (rule, ip_network(key))


@pytest.mark.parametrize("text", ["", "B-", "B-x", "W-", "W-!!", "X-7", "B-" + "9" * 30, "W-AAAA"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no code"):
        read_code(text)
    assert read_code("b-7") == (Rule.BLOCKED, 7)


def test_an_address_is_throttled_from_where_401_ends_until_its_minute_is_over() -> None:
    table = Addresses(DoorRules(wrong_keys_max=2, wrong_keys_refused=4, refused_s=90.0))
    visitor = table.find("203.0.113.9")
    found = []
    for _ in range(5):
        table.note_wrong_key(visitor, 10.0, 0.0)
        found.append(table.is_throttled(visitor, 10.0))
    assert found == [False, False, True, True, True]
    assert table.is_throttled(visitor, 99.0)  # refused, though its minute is over
    assert not table.is_throttled(visitor, 101.0)
    for rules in (DoorRules(wrong_keys_max=0, wrong_keys_refused=0), DoorRules(wrong_keys_max=9)):
        calm = Addresses(rules)
        other = calm.find("203.0.113.9")
        calm.note_wrong_key(other, 10.0, 0.0)
        assert not calm.is_throttled(other, 10.0)
