"""first_of leaves nothing of its own running and nothing of others cancelled: real tasks."""

import asyncio

import pytest

from relay.tasks import cancel_all, first_of


async def fail() -> None:
    raise ValueError


async def test_the_first_one_ends_it_and_the_rest_of_its_own_is_cancelled() -> None:
    ended = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await first_of(wait_for_ever(), asyncio.sleep(0.01))
    assert ended.is_set()


async def test_tasks_stay_their_owner_s() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    await first_of(task, asyncio.sleep(0))
    assert not task.done()
    await cancel_all([task])
    assert task.cancelled()


async def test_time_ends_it_too() -> None:
    await first_of(asyncio.Event().wait(), within_s=0.01)


async def test_what_the_first_one_raises_is_raised() -> None:
    with pytest.raises(ValueError):
        await first_of(fail(), asyncio.Event().wait())


async def test_a_cancellation_of_the_wait_ends_its_own() -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def wait_for_ever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(first_of(wait_for_ever()))
    await begun.wait()
    await cancel_all([waiting])
    assert ended.is_set()


async def test_who_answers_a_cancellation_by_an_error_and_goes_on_is_cancelled_again() -> None:
    tries = 0

    async def try_for_ever() -> None:
        nonlocal tries
        while True:
            tries += 1
            try:
                try:
                    await asyncio.Event().wait()
                finally:
                    if tries == 1:
                        raise ConnectionError  # as a client's cleanup on a broken connection
            except ConnectionError:
                pass

    task = asyncio.create_task(try_for_ever())
    await asyncio.sleep(0)
    await cancel_all([task])
    assert task.cancelled()
    assert tries == 2


async def test_an_error_during_the_cancellation_is_nobody_s_concern() -> None:
    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await fail()

    task = asyncio.create_task(fail_late())
    await asyncio.sleep(0)
    await cancel_all([task])
    assert isinstance(task.exception(), ValueError)
