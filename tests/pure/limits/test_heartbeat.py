"""Goal: all workers together share each limit once, and a dead one leaves its part to the others.

Method: workers tell and hear each other over a dict, on a clock of the test's.
"""

from relay.limits.bucket import Rule
from relay.limits.heartbeat import BUCKETS_MAX, GONE_MS_MAX, SILENT_MS_MAX, Heartbeat
from relay.limits.lease import Lease
from relay.limits.scopes import Bucket, Measure, Scope


def lease(name: str, per_s: float) -> Lease:
    found = Lease(Bucket(name, "t", Scope.LINE, Measure.TOKENS, Rule(60, 6_000)), 0.0)
    found.per_ms = per_s / 1_000
    return found


def test_shares_follow_demand() -> None:
    one, two = Heartbeat("one"), Heartbeat("two")
    told = {"one": one.beat([lease("a", 300)]), "two": two.beat([lease("a", 100)])}
    assert one.hear(told, 0.0) == ({"a": 0.75}, 0.5, [])
    assert two.hear(told, 0.0) == ({"a": 0.25}, 0.5, [])


def test_the_dead_have_no_share_and_are_removed_in_the_end() -> None:
    one, two = Heartbeat("one"), Heartbeat("two")
    last = two.beat([lease("a", 100)])

    def hear(now_ms: float) -> tuple[dict[str, float], float, list[str]]:
        return one.hear({"one": one.beat([lease("a", 100)]), "two": last}, now_ms)

    assert hear(0.0) == ({"a": 0.5}, 0.5, [])
    assert hear(SILENT_MS_MAX) == ({"a": 1.0}, 1.0, [])
    assert hear(GONE_MS_MAX) == ({"a": 1.0}, 1.0, ["two"])


def test_what_cannot_be_read_is_no_demand() -> None:
    one = Heartbeat("one")
    told = {"one": one.beat([lease("a", 100)]), "two": b"\xc1"}
    shares, share_default, _ = one.hear(told, 0.0)
    assert shares == {"a": 1.0} and share_default == 0.5
    assert one.hear({}, 0.0)[1] == 1.0


def test_only_the_hottest_are_told() -> None:
    one = Heartbeat("one")
    told = one.beat([lease(f"k{number}", number) for number in range(50)])
    shares, _, _ = one.hear({"one": told}, 0.0)
    assert len(shares) == BUCKETS_MAX and "k49" in shares and "k0" not in shares
