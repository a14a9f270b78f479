"""Keep the relay's processes running; carry no traffic.

    Supervisor -- Slot "worker-0" (socket) -- Child, Child that drains
               -- Slot "worker-1" (socket) -- Child
               -- Slot "control"  (socket) -- Child
               -- Slot "console"  (socket) -- Child

A slot outlives whoever serves it, and so does its listening socket. A child that dies is replaced
at once, and ever more slowly when it keeps dying young. One that is silent is relieved: another one
serves its queue beside it. A reload executes the program anew in this process: the new one puts a
child on each slot beside those of before, and when all serve, lets these drain; where they do not
serve, the program of before takes over again (process.succession). The end: workers drain, then the
control process, which still ships what they wrote, then the rest. A second signal cuts every wait
short.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from relay.config import Config
from relay.errors import ConfigError
from relay.process.child import Child, all_gone, all_ready, describe_exit
from relay.process.lifeline import Settings
from relay.process.slots import RestartBackoff, Slot, hand_all, hear_all
from relay.process.succession.outcome import Result
from relay.process.succession.successor import Successor, hear_signals
from relay.process.systemd import Notifier
from relay.store import metrics as worker_metrics
from relay.tasks import cancel_all, first_of

TICK_S: Final = 1.0
STDIN: Final = 0

EX_CONFIG: Final = 78
"""Source: sysexits.h. A child that exits so at start-up cannot be helped by another try."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Fills slots and keeps them filled until it is told to stop.

    Args:
        config: What every child is started under.
        data_dir: Where the relay keeps its state.
        slots: In order of starting. The supervisor closes their sockets in the end.
        successor: How a reload is done, and what was left by the program before.
        notifier: The service manager.
        backoff: How long children are waited for.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        slots: Sequence[Slot],
        successor: Successor,
        notifier: Notifier,
        backoff: RestartBackoff,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._slots = slots
        self._successor = successor
        self._notifier = notifier
        self._backoff = backoff
        self._metrics_dir = data_dir / "run" / "metrics"
        self._alive: dict[Child, Slot | None] = {}
        """Every process there is, and its slot; the spare one has none."""
        self._spare: Child | None = None
        self._spare_lock = asyncio.Lock()
        self._keepers: set[asyncio.Task[None]] = set()
        """Tasks that start children: they end first, or there would be no end."""
        self._others: set[asyncio.Task[None]] = set()
        self._reload_task: asyncio.Task[None] | None = None
        self._reload_again = False
        """A reload was asked for while one was under way."""
        self._asked = asyncio.Event()
        self._hurried = asyncio.Event()
        self._failure: BaseException | None = None
        """What ended the supervisor against its will."""
        self._status = ""
        self._settled = successor.handed is None
        """Whether the children of the program before have been told to go, or taken up again."""
        self._had_terminal = os.isatty(STDIN)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, serve until a signal, stop everything.

        Raises:
            ConfigError: RELAY; a child refused the configuration before anything was served.
        """
        if self._successor.handed is None:
            worker_metrics.clear(self._metrics_dir)
        with self._signals():
            self._adopt()
            hear_signals()
            self._spawn(self._others, self._watch())
            try:
                await self._serve(on_ready)
            finally:
                await self._stop()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask for the end: once to drain, twice for at once."""
        if self._asked.is_set():
            self._hurried.set()
        self._asked.set()

    # --- filling slots ----------------------------------------------------------------------

    async def _serve(self, on_ready: Callable[[], None]) -> None:
        before = self._before()
        for slot in self._slots:
            if slot.child is None:
                slot.child = await self._launch(slot)
        if self._successor.took_over:
            await self._take_over(before)
        for slot in self._slots:
            self._spawn(self._keepers, self._keep(slot))
        await first_of(self._all_served(), self._asked.wait())
        if self._asked.is_set():
            return
        self._tell_served()
        if not self._successor.came_back:
            on_ready()
        self._notifier.ready()
        if self._reload_again:
            self._on_hangup()
        await self._asked.wait()

    def _before(self) -> list[Child]:
        """Return the children of the program before that are to go once ours serve."""
        kept = {slot.child for slot in self._slots}
        return [child for child in self._alive if child not in kept and not child.stopped]

    def _tell_served(self) -> None:
        """Write down how this program came to serve."""
        handed, self._settled = self._successor.handed, True
        if handed is None:
            self._successor.tell(Result.STARTED)
        elif handed.failure:
            _log.error("reload given up", extra={"reason": handed.failure})
            self._successor.tell(Result.GIVEN_UP, handed.failure)
        else:
            _log.info("reloaded", extra={"count": len(self._slots)})
            self._successor.tell(Result.DONE)

    async def _all_served(self) -> None:
        for slot in self._slots:
            if slot.vital:
                await slot.served.wait()

    async def _launch(self, slot: Slot) -> Child:
        """Return a child that is told to serve `slot`: the spare one where there is one."""
        child = self._take_spare() if slot.drains else None
        if child is None:
            child = await self._start(slot.command)
        self._alive[child] = slot
        settings = Settings(name=slot.name, config=self._config, data_dir=str(self._data_dir))
        child.assign(settings, slot.listener)
        _log.info("child started", extra={"child": slot.name, "pid": child.pid})
        return child

    async def _start(self, command: Sequence[str]) -> Child:
        child = await Child.start(command, os.environ)
        self._alive[child] = None
        self._spawn(self._others, self._bury(child))
        return child

    def _take_spare(self) -> Child | None:
        child, self._spare = self._spare, None
        return child if child is not None and child.alive else None

    def _drop_spare(self) -> None:
        """Let the spare go: it has loaded the code of before, and a roll may bring new code."""
        spare = self._take_spare()
        if spare is not None:
            spare.kill()

    async def _keep_spare(self, command: Sequence[str]) -> None:
        """Have a worker in reserve that has loaded everything: that is most of a start's time."""
        async with self._spare_lock:
            if self._spare is None or not self._spare.alive:
                self._spare = await self._start(command)

    async def _bury(self, child: Child) -> None:
        await child.exited()
        child.close()
        del self._alive[child]
        with contextlib.suppress(OSError):  # a full disk must not end us
            worker_metrics.retire(self._metrics_dir, child.name, child.pid)

    async def _keep(self, slot: Slot) -> None:
        """Fill the slot again whenever its child dies, unless a roll put a newer one there."""
        while True:
            child = slot.child
            assert child is not None
            if await child.became_ready():
                slot.served.set()
                if slot.drains:
                    await self._keep_spare(slot.command)
            await first_of(child.exited(), slot.swapped.wait())
            slot.swapped.clear()
            if slot.child is not child:
                continue
            code = await child.exited()
            if code == EX_CONFIG and slot.vital and not slot.served.is_set():
                raise ConfigError(f"{slot.name} refused its configuration; it said why above")
            wait_s = slot.count_death(child.age_s, self._backoff)
            reason = {"reason": describe_exit(code), "wait_s": wait_s}
            _log.error("child died", extra={"child": child.name, "pid": child.pid, **reason})
            await asyncio.sleep(wait_s)
            while slot.child is child:
                await self._refill(slot)

    async def _refill(self, slot: Slot) -> None:
        try:
            slot.child = await self._launch(slot)
        except OSError as exc:  # no memory or no process table entry: others may give some back
            _log.error("child cannot be started", extra={"child": slot.name, "error": exc.strerror})
            await asyncio.sleep(TICK_S)

    def _spawn(
        self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._end_on_failure)
        return task

    def _end_on_failure(self, task: asyncio.Task[None]) -> None:
        """Stop all when a task of ours fails: better started anew than a slot nobody keeps."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._asked.set()

    # --- watching ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Once a second kill who is stuck, feed systemd's watchdog, tell the state."""
        last_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            hear_all(self._alive, self._slots)
            # After a stop of this very process the beats of all are still unread: next time.
            if now_s - last_s < 2 * TICK_S:
                for child in list(self._alive):
                    if self._backoff.is_stuck(child, now_s):
                        _log.error("child is stuck", extra={"child": child.name, "pid": child.pid})
                        child.kill()
                self._relieve(now_s)
            last_s = now_s
            self._notifier.alive()
            self._tell_status()
            await asyncio.sleep(TICK_S)

    def _relieve(self, now_s: float) -> None:
        """Have the queue of a worker that is silent, or too large, served by another one."""
        for slot in self._slots:
            child = slot.child
            if not slot.drains or child is None or not child.is_ready or slot.relieving:
                continue
            if why := slot.why_relieve(child, now_s, self._backoff):
                _log.warning(why, extra={"child": child.name, "pid": child.pid})
                slot.relieving, slot.renew = True, False
                self._spawn(self._keepers, self._relieve_slot(slot, child))
                return

    async def _relieve_slot(self, slot: Slot, old: Child) -> None:
        try:
            new = await self._launch(slot)
            if not await new.became_ready():
                return
            if slot.child is not old:  # it died meanwhile, and was replaced
                self._spawn(self._others, self._end([new], self._grace_s(slot)))
                return
            slot.child = new
            slot.swapped.set()
            # Once it hears again, it hears that it is to drain; else it is killed as stuck.
            self._spawn(self._others, self._end([old], self._grace_s(slot)))
            await self._keep_spare(slot.command)
        except OSError as exc:
            _log.error("child cannot be started", extra={"child": slot.name, "error": exc.strerror})
        finally:
            slot.relieving = False

    def _tell_status(self) -> None:
        serving = [slot for slot in self._slots if slot.drains]
        ready = sum(slot.child is not None and slot.child.is_ready for slot in serving)
        draining = sum(
            slot is not None and slot.child is not child for child, slot in self._alive.items()
        )
        status = f"{ready} of {len(serving)} workers ready"
        if self._asked.is_set():
            status = f"stopping, {len(self._alive)} processes left"
        elif draining:
            status += f", {draining} draining"
        if status != self._status:
            self._status = status
            self._notifier.status(status)

    # --- reloading --------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        """Reload, unless it is the terminal that hung up: then nobody is left to stop us."""
        if self._had_terminal and not os.isatty(STDIN):
            self.stop()
        elif self._asked.is_set():
            pass
        elif self._is_reloading:
            self._reload_again = True
        else:
            self._reload_again = False
            self._reload_task = self._spawn(self._keepers, self._reload())

    @property
    def _is_reloading(self) -> bool:
        if self._successor.took_over and not self._settled:
            return True
        return self._reload_task is not None and not self._reload_task.done()

    async def _reload(self) -> None:
        """Become the program and the configuration of now, once they have stood a rehearsal."""
        self._notifier.reloading()
        self._successor.reloads += 1
        self._successor.tell(Result.RUNNING)
        try:
            await self._successor.rehearse(self._config.database.url, self._notifier)
            self._drop_spare()
            current = {slot.child.pid for slot in self._slots if slot.child is not None}
            self._successor.become(hand_all(self._alive, current), self._config)
        except ConfigError as exc:
            _log.error("reload refused", extra={"reason": exc.message})
            self._successor.tell(Result.REFUSED, exc.message)
        self._notifier.ready()
        if self._reload_again:
            asyncio.get_running_loop().call_soon(self._on_hangup)

    def _adopt(self) -> None:
        """Take up the children of the program before; those that drain go on draining."""
        handed = self._successor.handed
        slots = {slot.name: slot for slot in self._slots}
        draining = []
        for found in handed.children if handed else ():
            child = Child.adopt(found)
            slot = slots.get(found.slot) or Slot(name=found.slot, command=(), drains=found.drains)
            self._alive[child] = slot
            self._spawn(self._others, self._bury(child))
            if found.current and (self._successor.came_back or slot.lasting):
                slot.child = child
            elif found.stopped:
                draining.append(child)
        if draining:
            self._spawn(self._others, self._end(draining, self._drain_s))

    async def _take_over(self, before: Sequence[Child]) -> None:
        """Let the children of the program before go once ours serve; else go back to it."""
        new = [slot.child for slot in self._slots if slot.vital and slot.child is not None]
        await first_of(all_ready(new), self._asked.wait())
        if self._asked.is_set():
            return
        if not all(child.is_ready for child in new):
            await self._go_back(before)
        self._successor.settle()
        for drains in (True, False):
            leaving = [c for c in before if (s := self._alive.get(c)) and s.drains is drains]
            grace_s = self._drain_s if drains else self._backoff.grace_s
            if leaving:
                self._spawn(self._others, self._end(leaving, grace_s))

    async def _go_back(self, before: Sequence[Child]) -> None:
        """End what we have started, and execute the program before."""
        kept = set(before)
        ours = [child for child in self._alive if child not in kept and not child.stopped]
        failure = "its processes do not become ready; they said why above"
        _log.error("going back to the release before", extra={"reason": failure})
        await cancel_all(self._keepers - {asyncio.current_task()})
        for child in ours:
            child.kill()
        await all_gone(ours)
        left = {child: slot for child, slot in self._alive.items() if child not in ours}
        children = hand_all(left, self._successor.current_pids)
        self._successor.go_back(children, failure)

    # --- stopping ---------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._asked.set()
        self._notifier.stopping()
        await cancel_all(self._keepers)
        for slot in self._slots:
            if slot.listener is not None:
                slot.listener.close()  # a worker's own copy lives until it has drained its queue
        draining = [child for child, slot in self._alive.items() if slot and slot.drains]
        await self._end(draining, self._drain_s)
        # Only now: the shipper has to see their last records.
        await self._end(list(self._alive), self._backoff.grace_s)
        await cancel_all(self._others)

    def _grace_s(self, slot: Slot) -> float:
        return self._drain_s if slot.drains else self._backoff.grace_s

    @property
    def _drain_s(self) -> float:
        return self._config.server.drain_s + self._backoff.last_s

    async def _end(self, children: Sequence[Child], grace_s: float) -> None:
        """Return when all of `children` are gone: in time by SIGTERM, or by SIGKILL after it.

        In a hurry a second SIGTERM tells them to let go of their clients, and `Pace.last_s` is all.
        """
        for child in children:
            child.stop()
        await first_of(all_gone(children), self._hurried.wait(), within_s=grace_s)
        if self._hurried.is_set():
            for child in children:
                child.hurry()
            await first_of(all_gone(children), within_s=self._backoff.last_s)
        for child in children:
            if child.alive:
                _log.warning("child killed", extra={"child": child.name, "pid": child.pid})
                child.kill()
        await all_gone(children)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        actions = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self._on_hangup,
        }
        for number, action in actions.items():
            loop.add_signal_handler(number, action)
        try:
            yield
        finally:
            for number in actions:
                loop.remove_signal_handler(number)
