"""A video that is begun out of another: what it costs is told by that one, and by nothing else.

Its request names no model, no length and no size: a remix has those of its source. So that is asked
of its provider first, and held for as for any other video; nothing is begun that has no price.

Source: OpenAI API reference, Remix video.
"""

from collections.abc import Callable
from typing import Final

from relay.billing.tariff import Tariff
from relay.errors import Conflict, Forbidden, ModelNotFound, RelayError, Unavailable
from relay.extras import Asked
from relay.flow.call import Call
from relay.flow.priced import check_priced
from relay.flow.request import RequestFacts, Rights
from relay.flow.state.fetch import fetch
from relay.model import Snapshot
from relay.ports import Connections
from relay.wire.request.asked import video_ms
from relay.wire.state.jobs import VIDEO_JOB, read_video, size_of
from relay.wire.state.loss import lost
from relay.wire.state.marks import KIND_BYTES
from relay.wire.usage.delivered_tokens import tokens_of_bytes

OK: Final = 200
NOT_FOUND: Final = 404
AGAIN_S: Final = 2.0


class Remixes:
    """Finds out what remixes cost.

    Args:
        connections: The pool of upstream connections.
        snapshot: Returns the catalog as it is.
    """

    def __init__(self, connections: Connections, snapshot: Callable[[], Snapshot | None]) -> None:
        self._connections = connections
        self._snapshot = snapshot

    async def look(self, call: Call) -> None:
        """Give a call that is bound to its source's channel the price and the length of a remix.

        Raises:
            StateLost: CLIENT; its source is not there.
            Conflict: CLIENT; its source has not ended.
            ModelNotFound: CLIENT; its model has no price, or none for video.
            Forbidden: CLIENT; its key may not use the model.
            Unavailable: CHANNEL; its provider does not say.
        """
        kept, rights, model = call.head.kept, call.rights, call.request.model
        snapshot = self._snapshot()
        assert kept is not None and snapshot is not None
        key, group, channel = rights.key, rights.group, rights.channels[0]
        assert key is not None and group is not None
        if key.models is not None and model not in key.models:
            raise Forbidden("This API key may not use this model.", param="model")
        price = snapshot.prices.get(model)
        if price is None or model not in channel.models:
            raise ModelNotFound("The model of this video is not offered here.", param="model")
        name = kept.mark[KIND_BYTES:].decode()
        try:
            status, body = await fetch(self._connections, channel, VIDEO_JOB.path(name))
        except (RelayError, TimeoutError):
            status, body = 0, b""
        if status == NOT_FOUND:
            raise lost(kept.mark)
        if status != OK:
            raise Unavailable("Its provider does not answer now; try again.", retry_after_s=AGAIN_S)
        if VIDEO_JOB.begun(body):
            raise Conflict("This video has not ended: it can be remixed when it has.")
        source = read_video(body)
        body_bytes = call.request.body_bytes
        call.request = RequestFacts(
            model,
            input_estimate=tokens_of_bytes(body_bytes),
            text_bytes=body_bytes,
            body_bytes=body_bytes,
            asked=Asked(videos=1, video_ms=video_ms(source.seconds), video_class=size_of(source)),
        )
        tariff = Tariff(price, group.multiplier_ppm)
        call.rights = Rights(key, rights.account, group, rights.line, tariff, (channel,))
        call.served_model = channel.models[model]
        check_priced(call)
