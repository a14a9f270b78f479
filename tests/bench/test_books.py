"""Goal: a row that is lost is told from one that was never meant to be. Method: a log made up."""

import pytest

from benchmarks.targets.books import Books
from benchmarks.targets.place import Server


class Log:
    """A target's log: how many rows it has, and how many refused calls it left out."""

    def __init__(self, rows: int, bounded: int) -> None:
        self.rows = rows
        self.bounded = bounded

    def server(self) -> Server:
        return Server(
            port=1, pid=1, does="", logged=lambda: self.rows, bounded=lambda: self.bounded
        )


@pytest.mark.parametrize(
    ("asked", "rows", "bounded", "found"),
    [
        (100, 100, 0, {"log_rows_missing": 0}),
        (100, 60, 40, {"log_rows_missing": 0, "log_rows_bounded": 40}),
        (100, 59, 40, {"log_rows_missing": 1, "log_rows_bounded": 40}),
        (100, 61, 40, {"log_rows_missing": -1, "log_rows_bounded": 40}),
        (100, 99, 0, {"log_rows_missing": 1}),
    ],
)
def test_what_is_left_out_is_told_apart(
    asked: int, rows: int, bounded: int, found: dict[str, int]
) -> None:
    log, beside = Log(7, 3), Log(0, 2)
    books = Books(log.server(), beside.server(), wait_s=0.0, published_s=0.0)
    books.asked = asked
    log.rows += rows
    log.bounded += bounded // 2
    beside.bounded += bounded - bounded // 2
    assert books.check() == found


def test_a_target_without_a_log_has_nothing_to_check() -> None:
    assert Books(Server(port=1, pid=1, does="")).check() == {}
