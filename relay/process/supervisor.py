"""Keep the relay's processes running; carry no traffic.

    Supervisor -- Slot "worker-0" (socket) -- Child, Child that drains
               -- Slot "worker-1" (socket) -- Child
               -- Slot "control"  (socket) -- Child
               -- Slot "console"  (socket) -- Child

A slot outlives whoever serves it, and so does its listening socket. A child that dies is replaced
at once, and ever more slowly when it keeps dying young. A roll puts a new child on a slot and lets
the old one drain beside it. The end: workers drain, then the control process, which still ships
what they wrote, then the rest. A second signal cuts every wait short.
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
from relay.process.child import Child, all_gone, describe_exit
from relay.process.lifeline import Settings
from relay.process.slots import RestartBackoff, Slot
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
        reload: Returns the configuration as it is now; raises ConfigError. Called on SIGHUP.
        notifier: The service manager.
        backoff: How long children are waited for.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        slots: Sequence[Slot],
        reload: Callable[[], Config],
        notifier: Notifier,
        backoff: RestartBackoff,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._slots = slots
        self._reload = reload
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
        self._roll_task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._hurried = asyncio.Event()
        self._failure: BaseException | None = None
        """What ended the supervisor against its will."""
        self._status = ""
        self._had_terminal = os.isatty(STDIN)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, serve until a signal, stop everything.

        Raises:
            ConfigError: RELAY; a child refused the configuration before anything was served.
        """
        worker_metrics.clear(self._metrics_dir)
        with self._signals():
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
        for slot in self._slots:
            slot.child = await self._launch(slot)
            self._spawn(self._keepers, self._keep(slot))
        await first_of(self._all_served(), self._asked.wait())
        if not self._asked.is_set():
            on_ready()
            self._notifier.ready()
            await self._asked.wait()

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
            # After a stop of this very process the beats of all are still unread: next time.
            if now_s - last_s < 2 * TICK_S:
                for child in list(self._alive):
                    if self._is_stuck(child, now_s):
                        _log.error("child is stuck", extra={"child": child.name, "pid": child.pid})
                        child.kill()
            last_s = now_s
            self._notifier.alive()
            self._tell_status()
            await asyncio.sleep(TICK_S)

    def _is_stuck(self, child: Child, now_s: float) -> bool:
        if not child.is_ready and child.age_s > self._backoff.start_s:
            return True
        return child.seen_s is not None and now_s - child.seen_s > self._backoff.silent_s

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

    # --- rolling ----------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        """Roll, unless it is the terminal that hung up: then nobody is left to stop us."""
        if self._had_terminal and not os.isatty(STDIN):
            self.stop()
        elif not self._asked.is_set() and (self._roll_task is None or self._roll_task.done()):
            self._roll_task = self._spawn(self._keepers, self._roll())

    async def _roll(self) -> None:
        """Put a new child on each slot, one after the other, under the configuration of now."""
        self._notifier.reloading()
        before = self._config
        try:
            self._config = self._reload()
        except ConfigError as exc:
            _log.error("reload refused", extra={"reason": exc.message})
        else:
            _warn_of_fixed(before, self._config)
            self._drop_spare()
            for slot in self._slots:
                if slot.listener is not None and not await self._replace(slot):
                    _log.error("reload given up", extra={"child": slot.name})
                    self._config = before
                    break
        self._notifier.ready()

    async def _replace(self, slot: Slot) -> bool:
        """Swap the slot's child for a new one that is ready; else leave it as it was."""
        old = slot.child
        new = await self._launch(slot)
        if not await new.became_ready():
            return False
        if slot.child is old:
            slot.child = new
            slot.swapped.set()
        if slot.drains:
            await self._keep_spare(slot.command)
        retired = old if slot.child is new else new  # the delivered text was faster than the roll
        if retired is not None and retired.alive:
            self._spawn(self._others, self._end([retired], self._grace_s(slot)))
        return True

    # --- stopping ---------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._asked.set()
        self._notifier.stopping()
        await cancel_all(self._keepers)
        for slot in self._slots:
            if slot.listener is not None:
                slot.listener.close()  # a worker's own copy lives until it has drained its queue
        draining = [child for child, slot in self._alive.items() if slot and slot.drains]
        await self._end(draining, self._config.server.drain_s + self._backoff.last_s)
        # Only now: the shipper has to see their last records.
        await self._end(list(self._alive), self._backoff.grace_s)
        await cancel_all(self._others)

    def _grace_s(self, slot: Slot) -> float:
        if not slot.drains:
            return self._backoff.grace_s
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


def _warn_of_fixed(old: Config, new: Config) -> None:
    """Say which changes wait for a restart: the sockets stay what they are."""
    for name in ("listen", "admin", "console", "workers", "backlog"):
        if getattr(old.server, name) != getattr(new.server, name):
            _log.warning("restart to apply this change", extra={"path": f"server.{name}"})
