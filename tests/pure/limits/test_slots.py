"""Goal: seats are never more than the room has, none leaks, and none in use is taken away.

Method: workers over one imaginary room, whose replies come in any order a test likes.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.limits.decision import ADMITTED, Denied
from relay.limits.scopes import Room, Scope
from relay.limits.slots import RENEW_MS, SETTLE_MS, Seats, SeatTicket, grant_seats
from relay.limits.wish import Wish

HALL = Room("relay:{l:1}:seats", "{l:1}", Scope.LINE, 10)
DESK = Room("relay:{a:1}:seats", "{a:1}", Scope.ACCOUNT, 2)


def worker() -> tuple[Seats, list[str]]:
    due: list[str] = []
    return Seats(lambda _: "", due.append), due


@given(*[st.integers(0, 50)] * 5)
def test_blocks_fit_the_room(seats: int, others: int, used: int, need: int, spare: int) -> None:
    block = grant_seats(seats, others, used, need, spare)
    assert used <= block <= used + need + spare
    assert block <= max(used, seats - others)


def seat(seats: Seats, rooms: list[Room], granted: list[int], now_ms: float = 0.0) -> object:
    ticket = seats.ask(rooms, now_ms)
    assert isinstance(ticket, SeatTicket)
    seats.take_wishes("", now_ms)
    seats.land("", granted, now_ms)
    return ticket.decision


def test_the_first_call_asks_and_the_next_sits_down() -> None:
    seats, due = worker()
    ticket = seats.ask([HALL], 0.0)
    assert isinstance(ticket, SeatTicket) and due == [""]
    heard = []
    ticket.decide = lambda: heard.append(ticket.decision)
    assert seats.take_wishes("", 0.0) == [Wish(HALL.key, 10, 0, 1, 2)]
    assert seats.take_wishes("", 0.0) == [], "one question at a time"
    seats.land("", [2], 1.0)
    assert heard == [ADMITTED]
    assert seats.ask([HALL], 2.0) is ADMITTED


def test_no_seat_in_one_room_is_a_seat_in_none() -> None:
    seats, _ = worker()
    denied = seat(seats, [HALL, DESK], [3, 0])
    assert isinstance(denied, Denied) and denied.limit is DESK
    assert seats.ask([HALL], 0.0) is ADMITTED
    assert isinstance(seats.ask([DESK], 1.0), Denied), "a full room is not asked again at once"
    assert isinstance(seats.ask([DESK], 100.0), SeatTicket)


def test_a_call_that_came_after_the_question_waits_for_the_next() -> None:
    seats, due = worker()
    first = seats.ask([HALL], 0.0)
    seats.take_wishes("", 0.0)
    late = seats.ask([HALL], 0.0)
    due.clear()
    seats.land("", [1], 1.0)
    assert isinstance(first, SeatTicket) and first.decision is ADMITTED
    assert isinstance(late, SeatTicket) and late.decision is None and due == [""]


def test_a_call_that_left_takes_no_seat() -> None:
    seats, _ = worker()
    ticket = seats.ask([HALL], 0.0)
    assert isinstance(ticket, SeatTicket)
    seats.drop(ticket)
    seats.drop(ticket)
    seats.take_wishes("", 0.0)
    seats.land("", [], 1.0)
    seats.sweep(1.0)
    assert seats._blocks == {}
    kept = seats.ask([HALL], 2.0)
    seats.take_wishes("", 2.0)
    assert isinstance(kept, SeatTicket)
    seats.drop(kept)
    seats.land("", [1], 3.0)
    assert seats.ask([HALL], 4.0) is ADMITTED


def test_blocks_are_renewed_and_given_back() -> None:
    seats, due = worker()
    assert seat(seats, [HALL], [1]) is ADMITTED
    due.clear()
    seats.sweep(RENEW_MS - 1)
    assert due == []
    seats.sweep(RENEW_MS)
    assert due == [""]
    assert seats.take_wishes("", RENEW_MS) == [Wish(HALL.key, 10, 1, 0, 2)]
    seats.land("", [3], RENEW_MS)
    seats.release([HALL])
    assert seats.take_wishes("", RENEW_MS + SETTLE_MS) == [Wish(HALL.key, 10, 0, 0, 0)]
    seats.land("", [0], RENEW_MS + SETTLE_MS)
    seats.sweep(RENEW_MS + SETTLE_MS)
    assert seats._blocks == {}


def test_while_lost_blocks_stay_and_do_not_grow() -> None:
    seats, _ = worker()
    assert seat(seats, [HALL], [1]) is ADMITTED
    waiting = seats.ask([HALL], 1.0)
    seats.take_wishes("", 1.0)
    seats.lose("", 2.0)
    assert isinstance(waiting, SeatTicket) and isinstance(waiting.decision, Denied)
    assert isinstance(seats.ask([HALL], 200.0), Denied)
    seats.release([HALL])
    assert seats.ask([HALL], 200.0) is ADMITTED
    seats.regain("")
    assert isinstance(seats.ask([HALL], 200.0), SeatTicket)


def test_rooms_of_two_groups_are_taken_together() -> None:
    due: list[str] = []
    seats = Seats(lambda room: room.tag, due.append)
    ticket = seats.ask([HALL, DESK], 0.0)
    assert isinstance(ticket, SeatTicket)
    assert seats.take_wishes(HALL.tag, 0.0) == [Wish(HALL.key, 10, 0, 1, 2)]
    seats.land(HALL.tag, [1], 1.0)
    assert ticket.decision is None
    assert seats.take_wishes(DESK.tag, 1.0) == [Wish(DESK.key, 2, 0, 1, 2)]
    seats.land(DESK.tag, [1], 2.0)
    assert ticket.decision is ADMITTED


def test_a_seat_is_foreseen_without_taking_it() -> None:
    seats = Seats(lambda _: "", lambda _: None)
    assert seats.foresee([HALL], 0.0) is None, "nobody knows yet: the bank has to say"
    seats.lose("", 0.0)
    denied = seats.foresee([HALL], 0.0)
    assert isinstance(denied, Denied) and denied.limit is HALL
    assert seats.take([HALL], 0.0) == denied


def test_who_leaves_wishes_for_nothing() -> None:
    seats = Seats(lambda room: room.tag, lambda _: None)
    seats.ask([HALL], 0.0)
    assert seats.leave() == {HALL.tag: [Wish(HALL.key, HALL.seats, 0, 0, 0)]}
