"""Reasons before the answers of demonstrations, as studied for vision-language models in 2506.07936.

    sees: answer      the model explains the demonstration's own answer
    sees: nothing     it explains without the answer: a blind rationale
    sees: wrong       it explains the answer of another demonstration, if one differs
    sees: shuffled    rationales of `answer`, exchanged among the demonstrations

The demonstration keeps its answer, after the rationale: "{rationale} So the answer is red". Only if `answer` beats the
other three do the reasons matter, and not their length or form. Rationales are greedy answers of the model under test,
and cached. Score outputs with `lenient`, which reads an answer at the end.

No released code was compared.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl import (
    ConfigError,
    Context,
    Demo,
    Model,
    Part,
    PlanError,
    Pool,
    PositiveInt,
    Prompt,
    Turn,
    component,
    normalize_text,
    spans,
)
from icl.models.answer_likelihood import answers
from prompts import derange, random_places, replace_demos, sort_by_rank, with_answer

REQUEST = "{question}\n{fact}Explain in one sentence, from the image, how to get to the answer."


@component("transform", "rationales")
@dataclass(frozen=True)
class Rationales:
    """A transform that writes the model's reason before the answer of each demonstration."""

    model_ability: ClassVar[str] = "generate"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "labels"})

    sees: Literal["answer", "nothing", "wrong", "shuffled"] = "answer"  # what the rationale is written for
    text: str = "{rationale} So the answer is {answer}"  # format of the demonstration's answer
    max_new_tokens: PositiveInt = 48  # length limit of a rationale in tokens

    def __post_init__(self) -> None:
        if self.text.count("{rationale}") != 1 or self.text.count("{answer}") != 1:
            raise ConfigError(f"text must have {{rationale}} and {{answer}} once each; it is {self.text!r}.")

    def fitted(self, pool: Pool, model: Model | None) -> "FittedRationales":
        """The transform with its model. Raises PlanError without a model."""
        if model is None:
            raise PlanError("transform 'rationales' needs a model that explains answers, but there is none.")
        return FittedRationales(self, model)

    def transform(self, context: Context) -> Context:
        raise PlanError(
            "transform 'rationales' needs a model. In Python, call fitted(pool, model). A run does this automatically."
        )


@dataclass(frozen=True)
class FittedRationales:
    """The transform `rationales` with its model."""

    rationales: Rationales
    model: Model

    @property
    def needs(self) -> frozenset[str]:
        return self.rationales.needs

    def transform(self, context: Context) -> Context:
        """The changed context. Raises ModelError, ImageError."""
        own, demos = self.rationales, sort_by_rank(context)
        prompts = [_request(demo, self._explained(context, demo, demos), context) for demo in demos]
        texts = [text.strip() for text in answers(self.model, prompts, own.max_new_tokens)]
        if own.sees == "shuffled":
            texts, _ = derange(texts, random_places(context, "transform/rationales"), str)
        written = [self._with_rationale(demo, text) for demo, text in zip(demos, texts, strict=True)]
        return replace_demos(context, written, f"rationales: {own.sees}, saw labels")

    def _explained(self, context: Context, demo: Demo, demos: list[Demo]) -> str:
        """The answer that the model explains; '' if it is not said."""
        if self.rationales.sees == "nothing":
            return ""
        answer = demo.example.answer
        if self.rationales.sees != "wrong":
            return answer
        others = sorted({d.example.answer for d in demos if normalize_text(d.example.answer) != normalize_text(answer)})
        factor = f"transform/rationales/{demo.example.id}"
        return others[context.key.order(factor, others)[0]] if others else answer

    def _with_rationale(self, demo: Demo, rationale: str) -> Demo:
        if not rationale:
            return demo
        label = demo.example.label
        text = self.rationales.text.replace("{answer}", demo.example.answer).replace("{rationale}", rationale)
        written = with_answer(demo, text)
        return replace(written, example=replace(written.example, label=label))


def _request(demo: Demo, answer: str, context: Context) -> Prompt:
    fact = f"The answer is {answer}. " if answer else ""
    images = tuple(Part(image, spans.image(spans.QUERY, j)) for j, image in enumerate(demo.example.images))
    text = REQUEST.format(question=demo.example.question, fact=fact)
    return Prompt((Turn("user", (*images, Part(text, spans.question(spans.QUERY)))),), context.key)
