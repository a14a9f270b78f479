"""From a question to its answer: one renderer for each endpoint, and the list of models."""

from collections.abc import Callable
from typing import Final

from relay.mock.answers.answer import CREATED_S, MockAnswer, Turn, single
from relay.mock.answers.chat import answer_chat, answer_completion
from relay.mock.answers.media import (
    answer_embeddings,
    answer_images,
    answer_moderations,
    answer_rerank,
    answer_speech,
    answer_transcription,
)
from relay.mock.answers.messages import answer_message, count_tokens
from relay.mock.answers.responses import answer_response
from relay.mock.options import MockOptions
from relay.mock.question import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)

_RENDERERS: Final[dict[str, Callable[[Turn], MockAnswer]]] = {
    CHAT: answer_chat,
    COMPLETIONS: answer_completion,
    EMBEDDINGS: answer_embeddings,
    RESPONSES: answer_response,
    MODERATIONS: answer_moderations,
    RERANK: answer_rerank,
    IMAGES: answer_images,
    IMAGE_EDITS: answer_images,
    IMAGE_VARIATIONS: answer_images,
    SPEECH: answer_speech,
    TRANSCRIPTIONS: answer_transcription,
    TRANSLATIONS: answer_transcription,
    MESSAGES: answer_message,
    COUNT_TOKENS: count_tokens,
}


def render(turn: Turn) -> MockAnswer:
    """Return what an honest upstream answers to `turn`."""
    return _RENDERERS[turn.question.endpoint](turn)


def list_models(options: MockOptions) -> MockAnswer:
    """Return the answer to GET models."""
    rows = [_model(name, options) for name in options.models]
    return single({"object": "list", "data": rows})


def show_model(name: str, options: MockOptions) -> MockAnswer:
    """Return the answer to GET models/{id}: a scripted model goes by any name."""
    return single(_model(name, options))


def _model(name: str, options: MockOptions) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED_S, "owned_by": options.name}
