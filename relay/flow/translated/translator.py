"""Makes plans of translation: before a call takes anything, or when its own channels are out."""

from typing import Final

from relay.flow.balancer import Balancer
from relay.flow.call import Call
from relay.flow.translated.kept import KeptThinking
from relay.flow.translated.plan import CallTranslation
from relay.stage import COMMITTED

NO_KEY: Final = b"\0" * 32


class Translator:
    """Plans the translation of calls that channels of another dialect may serve.

    Args:
        balancer: Knows whether a channel of the client's own dialect is well.
        kept: Where signed thinking is kept.
    """

    def __init__(self, balancer: Balancer, kept: KeptThinking) -> None:
        self._balancer = balancer
        self._kept = kept

    def prepare(self, call: Call) -> bool:
        """See to it that a call can be asked of whatever channel is chosen for it first.

        Returns:
            False: `complete` has to look for what other workers kept.

        Raises:
            Refused: CLIENT; no channel speaks the client's dialect, and none of the others can be
                told what it asks.
        """
        if self._balancer.has_native(call):
            return True
        plan = self._plan(call)
        if plan.missing():
            return False
        _check(call, plan)
        return True

    async def complete(self, call: Call) -> None:
        """Plan a call for all channels of other dialects, with what other workers kept.

        Raises:
            Refused: As `prepare`.
        """
        if call.stage is COMMITTED:
            return
        plan = call.translation
        if plan is not None and plan.whole and not plan.missing():
            return
        plan = self._plan(call)
        missing = plan.missing()
        if missing and await plan.fetch(missing):
            plan.write(call)
        _check(call, plan)

    def _plan(self, call: Call) -> CallTranslation:
        plan = call.translation
        if plan is None:
            plan = call.translation = CallTranslation(call, self._kept)
        if not plan.whole:
            plan.write(call)
        return plan


def _check(call: Call, plan: CallTranslation) -> None:
    if plan.refused is None or call.rights.channels:
        return
    if not any(plan.takes(channel) for channel in call.rights.foreign):
        raise plan.refused
