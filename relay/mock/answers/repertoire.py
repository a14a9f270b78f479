"""What the mock says to a question when nothing is made to go wrong, kept ready for the next time.

An answer depends on the request's bytes alone, so a benchmark that asks the same again gets the
same frames again: the mock then costs a lookup and the writes, and is not what is measured.
"""

from typing import TypeAlias

import msgspec

from relay.mock.answers.answer import MockAnswer, Turn, with_crlf
from relay.mock.answers.render import render
from relay.mock.options import (
    REHEARSED_ANSWER_BYTES_MAX,
    REHEARSED_BODY_BYTES_MAX,
    REHEARSED_CHUNKS_MAX,
    REHEARSED_MAX,
    MockOptions,
)
from relay.mock.plan import AnswerPlan, Style, lay_out
from relay.mock.question import MockQuestion, parse

_Asked: TypeAlias = tuple[str, str, bytes, bool]


class Scene(msgspec.Struct, frozen=True):
    """A question and the honest plan for it."""

    question: MockQuestion
    plan: AnswerPlan


class Repertoire:
    """The answers of one mock."""

    def __init__(self, options: MockOptions) -> None:
        self._options = options
        self._scenes: dict[_Asked, Scene] = {}

    def perform(self, endpoint: str, content_type: str, body: bytes, *, chunked: bool) -> Scene:
        """Return the scene for a request to `endpoint`.

        Raises:
            QuestionError: As `question.parse`.
        """
        asked = (endpoint, content_type, body, chunked)
        scene = self._scenes.get(asked)
        if scene is None:
            question = parse(endpoint, content_type, body)
            style = Style(server=self._options.name, chunked=chunked)
            scene = Scene(question, lay_out(self.render(question), style))
            if self._is_small(question, body):
                scene = self._keep(asked, scene)
        return scene

    def render(self, question: MockQuestion) -> MockAnswer:
        """Return the answer, with the line ends that this mock sends."""
        answer = render(Turn(question=question, options=self._options))
        return with_crlf(answer) if self._options.crlf else answer

    def _keep(self, asked: _Asked, scene: Scene) -> Scene:
        if len(self._scenes) >= REHEARSED_MAX:
            self._scenes.clear()
        plan = msgspec.structs.replace(scene.plan, frames=tuple(scene.plan.frames))
        self._scenes[asked] = Scene(scene.question, plan)
        return self._scenes[asked]

    def _is_small(self, question: MockQuestion, body: bytes) -> bool:
        return (
            question.n == 1
            and len(body) <= REHEARSED_BODY_BYTES_MAX
            and self._options.chunks <= REHEARSED_CHUNKS_MAX
            and self._options.body_bytes <= REHEARSED_ANSWER_BYTES_MAX
        )
