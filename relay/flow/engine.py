"""All that the calls of one worker run through, but for sockets: what a new catalog means for them.

It is composed in process.composition; edge.server puts a listener in front.
"""

from relay.errors import KeyRevoked, RelayError
from relay.flow.admission import Admission
from relay.flow.balancer import Balancer
from relay.flow.call import Call
from relay.flow.exchange import Exchange
from relay.flow.request import RequestHead
from relay.flow.reserve.channel_quotas import ChannelQuotas
from relay.flow.running import RunningCalls
from relay.flow.state.background import BackgroundCalls
from relay.flow.state.owners import Owners
from relay.model import Snapshot


class Engine:
    """The parts that one worker's calls run through.

    Args:
        admission: Says who may do what, by the catalog of now.
        balancer: What is known of channels.
        exchange: Serves calls.
        running_calls: Those under way.
        quotas: What upstreams allow us.
        owners: Who made what.
        background: Responses that go on without their client.
    """

    def __init__(  # noqa: PLR0913 - a part a line
        self,
        admission: Admission,
        balancer: Balancer,
        exchange: Exchange,
        running_calls: RunningCalls,
        quotas: ChannelQuotas,
        owners: Owners,
        background: BackgroundCalls,
    ) -> None:
        self._admission = admission
        self._quotas = quotas
        self.balancer = balancer
        self.exchange = exchange
        self.running_calls = running_calls
        self.owners = owners
        self.background = background

    def current(self) -> Snapshot | None:
        """Return the catalog of now, None before the first."""
        return self._admission.snapshot

    def moves_channels(self, snapshot: Snapshot) -> bool:
        """Tell whether channels are others by `snapshot` than by the catalog of now."""
        old = self._admission.snapshot
        return old is None or old.channels is not snapshot.channels

    def swap(self, snapshot: Snapshot) -> None:
        """Serve by `snapshot` from now on; calls whose key is no longer good end now."""
        moved = self.moves_channels(snapshot)
        self._admission.swap(snapshot)
        if moved:
            self._quotas.swap(snapshot)
            self.balancer.keep(snapshot.channels)
            self._evict(snapshot)
        self.running_calls.end_where(self._is_revoked, KeyRevoked("The API key was revoked."))

    def is_revoked(self, request_head: RequestHead) -> bool:
        """Tell whether the key of a request that came earlier is no longer good."""
        snapshot = self._admission.snapshot
        key = snapshot.keys.get(request_head.credential or b"") if snapshot is not None else None
        return key is None or not self._admission.still_good(key)

    def end_all(self, error: RelayError) -> int:
        """End all calls that run with `error`; return how many there were."""
        return self.running_calls.end_where(_any, error)

    def _evict(self, snapshot: Snapshot) -> None:
        """Move running calls off the channels that an operator wants empty now."""
        evicted = {channel.id for channel in snapshot.channels.values() if channel.evicted}
        for call in self.running_calls.calls() if evicted else ():
            for channel_id in evicted:
                self.exchange.move_off(call, channel_id)

    def _is_revoked(self, call: Call) -> bool:
        return call.rights.key is not None and not self._admission.still_good(call.rights.key)


def _any(call: Call) -> bool:
    return True
