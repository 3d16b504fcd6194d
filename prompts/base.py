"""Base protocols of orderers, transforms and composers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from icl import ConfigError, Context, EmptyBlocks, Part, Prompt, Turn, later_parameter, spans


@runtime_checkable
class Orderer(Protocol):
    """A component of kind `orderer`: it puts the demonstrations of a context in another order.

    Attributes:
        needs: 'labels' if it reads the demonstrations' answers. 'gold' for an oracle: the query of the context is then
            an Example, and the orderer adds the mark 'saw the gold' to the provenance. 'model' and 'pool' if it uses
            the model or the pool: `fitted(pool, model)` then returns the orderer to call. Without a declared need, the
            value must not matter.
        nested: Optional, whether more shots can continue the prompt of fewer. A run then reads the shots of a query
            together.
    """

    needs: ClassVar[frozenset[str]]

    def order(self, context: Context) -> Context: ...


@runtime_checkable
class Transform(Protocol):
    """A component of kind `transform`: it changes a context and adds a mark to its provenance.

    Attributes:
        needs: As for an orderer. A transform that reads labels adds 'saw labels' to its mark.
        where: Optional parameter, 'demos', 'query' or 'all'. A transform without it leaves the query unchanged.
        spare_examples: Optional, the number of examples of the pool that it needs in addition to the demonstrations.
        analysis: Optional, for transforms that change the labels of demonstrations: the analysis that evaluates their
            arms. Sentences about gains leave such arms out.
    """

    needs: ClassVar[frozenset[str]]

    def transform(self, context: Context) -> Context: ...


@runtime_checkable
class Composer(Protocol):
    """A component of kind `composer`: it writes a context as a prompt with named parts.

    The prompt ends where the model answers. `BaseComposer` is a base class for it.
    """

    def compose(self, context: Context) -> Prompt: ...


MARK = "Answer: "
AnswerForm = Literal["free", "short", "marked"]

ANSWER_REQUESTS: Mapping[AnswerForm, str] = {
    "free": "",
    "short": "Answer the question using a single word or phrase.",  # LLaVA-1.5 (Liu et al., CVPR 2024)
    "marked": f'End with "{MARK}" and the answer alone.',
}
"""Form of an answer -> what follows each question."""


@dataclass(frozen=True, kw_only=True)
class BaseComposer(ABC):
    """Base class of composers, with the parameters that all have. A subclass writes the turns after the system turn."""

    system: str | None = later_parameter(None)  # text of a system turn before all others
    empty_blocks: EmptyBlocks = later_parameter("as_template")  # empty reasoning blocks before answers
    answer: AnswerForm = later_parameter("free")  # form of answer that each question asks for; the report measures it

    @abstractmethod
    def turns(self, context: Context) -> Sequence[Turn]:
        """The turns of a context. The last one ends where the model answers."""

    def compose(self, context: Context) -> Prompt:
        """The prompt. Raises ConfigError if `turns` writes a system turn and `system` is set too."""
        turns = tuple(self.turns(asked_for(context, self.answer)))
        if self.system is not None:
            if turns[0].role == "system":
                raise ConfigError("system: the composer writes a system turn of its own. Remove one of the two.")
            turns = Turn("system", (Part(self.system, spans.SYSTEM),)), *turns
        return Prompt(turns, context.key, empty_blocks=self.empty_blocks)


def asked_for(context: Context, form: AnswerForm) -> Context:
    """The context whose questions, those of demonstrations too, ask for a form of answer.

    'marked' demonstrations answer in this form, because a model follows them before it follows an instruction.
    """
    if form == "free":
        return context
    request, mark = ANSWER_REQUESTS[form], MARK if form == "marked" else ""

    def ask(question: str) -> str:
        return f"{question}\n{request}" if question else request

    demos = tuple(
        replace(
            demo,
            example=replace(
                demo.example,
                question=ask(demo.example.question),
                answers=tuple(f"{mark}{answer}" for answer in demo.example.answers),
            ),
        )
        for demo in context.demos
    )
    return replace(context, query=replace(context.query, question=ask(context.query.question)), demos=demos)
