"""Goal: a worker that waits for its own quota of a processor is known from one that others delay.

Method: files as both versions of control groups have them; a door whose beats come late, told how
long it was kept waiting.
"""

from pathlib import Path

import pytest

from relay.edge.overload.own_time import STALE_S, OwnTime
from relay.edge.overload.quota import Quota, Waits

SECOND_VERSION = "0::/relay.slice/relay.service\n"
FIRST_VERSION = "9:cpuset:/elsewhere\n3:cpu,cpuacct:/relay.slice/relay.service\n"


def put(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.stat").write_text(text)


@pytest.mark.parametrize(
    ("own", "below", "name", "per_s"),
    [
        (SECOND_VERSION, "", "throttled_usec", 1_000_000),
        (FIRST_VERSION, "cpu", "throttled_time", 1_000_000_000),
    ],
)
@pytest.mark.parametrize("place", ["relay.slice", "relay.slice/relay.service", ""])
def test_the_group_that_waited_longest_counts(
    tmp_path: Path, own: str, below: str, name: str, per_s: int, place: str
) -> None:
    groups, own_groups = tmp_path / "groups", tmp_path / "own"
    own_groups.write_text(own)
    assert Quota(own_groups, groups).waits() == Waits(0, 0.0)
    for group in ("", "relay.slice", "relay.slice/relay.service"):
        put(groups / below / group, f"nr_periods 9\nnr_throttled 1\n{name} {2 * per_s}\n")
    put(groups / below / place, f"nr_periods 9\nnr_throttled 4\n{name} {7 * per_s}\n")
    assert Quota(own_groups, groups).waits() == Waits(4, 7.0)


def test_what_cannot_be_read_is_no_wait(tmp_path: Path) -> None:
    own_groups = tmp_path / "own"
    assert Quota(own_groups, tmp_path).waits() == Waits(0, 0.0)
    own_groups.write_text(SECOND_VERSION)
    put(tmp_path / "relay.slice" / "relay.service", "usage_usec 5\nthrottled_usec\n")
    assert Quota(own_groups, tmp_path).waits() == Waits(0, 0.0)


class Waiting(Quota):
    """Tells of one wait of so many seconds each time that it is asked."""

    def __init__(self, each_s: float) -> None:
        super().__init__()
        self._each_s = each_s
        self._count = 0

    def waits(self) -> Waits:
        self._count += 4 if self._each_s else 0
        return Waits(self._count, self._count * self._each_s)


@pytest.mark.parametrize(
    ("each_s", "late_s"),
    [(0.04, 0.11), (0.0, 0.0), (0.005, 0.0)],
    ids=["for its quota", "for others", "mostly for others"],
)
def test_late_for_its_quota_is_late_and_late_for_others_is_not(
    each_s: float, late_s: float
) -> None:
    own_time = OwnTime(Waiting(each_s))
    own_time.begin()
    for _ in range(2):  # the first look tells nothing of now
        found = own_time.own_lateness_s(0.15, 0.0)
    assert abs(found - late_s) < 0.01


def test_an_old_queue_counts_whoever_has_the_processor() -> None:
    own_time = OwnTime(Waiting(0.0))
    own_time.begin()
    assert own_time.own_lateness_s(0.0, 2 * STALE_S) == 2 * STALE_S
    assert own_time.own_lateness_s(0.0, STALE_S / 2) == 0.0
