"""Transforms that write what images show into a prompt."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from icl import (
    ConfigError,
    Context,
    DataError,
    Example,
    Model,
    Part,
    PlanError,
    Pool,
    PositiveInt,
    Prompt,
    Turn,
    component,
    spans,
)
from icl import parameter_files as files
from icl.models import answers, demo_prompt
from icl.types import Where
from prompts import change_examples, sort_by_rank


@component("transform", "captions")
@dataclass(frozen=True)
class Captions:
    """A transform that replaces images by captions, tags or summaries from the data or from a file.

    Text instead of images: captions, tags or summaries that come with the data (VICL's demonstrations as text; TAMML).

    The text comes before the question, and the images are removed. It is the example's public fact `key` (a list
    becomes "a, b, c"), or it comes from a JSON file from example ids to texts. Such a file may hold the output of a
    captioner, or intent summaries of a model (VICL's IOIS). A summary that was written with knowledge of the label
    leaks it: set `saw_labels`. By default only demonstrations become text, and the query keeps its image, as in VICL.
    The missing-modality test of TAMML replaces all images.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    key: str = "caption"  # public fact of an example with its text; ignored if there is a file
    file: str | None = None  # JSON file: example id -> text
    where: Where = "demos"  # owners of the images to replace
    text: str = "{caption}\n"  # format of the text before the question
    saw_labels: bool = False  # whether the texts of the file were written with knowledge of the labels
    code: str = ""  # digest of the file, set automatically
    _texts: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        if self.text.count("{caption}") != 1:
            raise ConfigError(f"text must have {{caption}} once, at the place of the caption, but it is {self.text!r}.")
        texts: dict[str, str] = {}
        if self.file is not None:
            content = files.read(files.find(self.file, "file of captions"), "captions")
            files.pin(self, content, self.file)
            texts = _parse(content, self.file)
        object.__setattr__(self, "_texts", texts)

    def transform(self, context: Context) -> Context:
        source = f" from {self.file}" if self.file else f" '{self.key}'"
        mark = f"captions:{source}{', saw labels' if self.saw_labels else ''}"
        return change_examples(context, self.where, self._with_caption, mark)

    def _with_caption(self, item: Any) -> Any:
        if not item.images:
            return item
        written = self.text.replace("{caption}", self._caption(item))
        return replace(item, images=(), question=written + item.question if item.question else written.rstrip())

    def _caption(self, item: Any) -> str:
        caption = self._texts.get(item.id) if self.file else item.meta.get(self.key)
        if caption is None:
            facts = ", ".join(item.meta) or "none"
            where = f"in {self.file}" if self.file else f"among its public facts ({facts}) under '{self.key}'"
            raise DataError(f"captions: example '{item.id}' has no text {where}. Add it, or name another key or file.")
        return ", ".join(map(str, caption)) if isinstance(caption, list | tuple) else str(caption)


def _parse(content: str, name: str) -> dict[str, str]:
    try:
        texts = json.loads(content)
    except json.JSONDecodeError as error:
        raise ConfigError(f"captions {name} is not JSON: {error}.") from error
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ConfigError(f"captions {name} must map example IDs to texts, such as {{'cub-12': 'a small bird'}}.")
    return texts


REQUESTS: Mapping[str, str] = {
    "caption": "Describe the picture in one sentence.",
    "detail": "Introduce this picture in detail:",
    "intent": "{facts}Say in one sentence what this task wants to know of the picture.",
    "parsing": "{facts}Say in one sentence what in the picture supports the answer.",
    "summary": "{facts}Say in one sentence what is visible, what supports the answer, and what the task wants to know.",
    "look": "{facts}Before you answer, say what in this picture matters, given the examples.",
}
"""Requests to the model. `facts` is the question, and a demonstration's answer."""


@component("transform", "descriptions")
@dataclass(frozen=True)
class Descriptions:
    """A transform that replaces images by, or adds, the model's descriptions: captions, summaries, rationales.

    The model's own descriptions of images, instead of them or in addition to them: summaries, rationales, a second
    look.

        preset vicl     demonstrations become text: a summary of what is visible, what supports the answer, and what the
                        task intends (intent-oriented summaries of VICL, Zhou et al. 2024); sees the labels
        preset tamml    every image becomes a caption, the query's too (the missing-modality test of TAMML, 2024)
        preset kosmos   first "Introduce this picture in detail:", then the question after the answer (Kosmos-1, 2023)
        preset browse   a first pass over all demonstrations says what to look for in the query's image, a second
                        answers with that text in the prompt (after Browse-and-Concentrate, whose first pass is trained:
                        a reconstruction)

    Descriptions are greedy answers of the model under test, and cached: an example is described once. A description of
    the query never depends on its answer. Compare `vicl` with `{name: descriptions}`, plain captions: part of the gain
    of a summary that saw the label is the label.

    No released code was compared.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "vicl": {"ask": "summary"},
        "tamml": {"ask": "caption", "where": "all"},
        "kosmos": {"ask": "detail", "where": "query", "keep": True, "text": "{caption} "},
        "browse": {"ask": "look", "where": "query", "keep": True, "context": True},
    }
    model_ability: ClassVar[str] = "generate"

    ask: Literal["caption", "detail", "intent", "parsing", "summary", "look"] = "caption"  # request to the model
    where: Where = "demos"  # owners of the images to describe
    keep: bool = False  # whether the image stays next to its description
    context: bool = False  # whether the model sees the demonstrations when it describes the query's image
    text: str = "{caption}\n"  # format of the description before the question
    max_new_tokens: PositiveInt = 48  # length limit of a description in tokens

    def __post_init__(self) -> None:
        if self.text.count("{caption}") != 1:
            raise ConfigError(f"text must have {{caption}} once, where the words go; it is {self.text!r}.")
        if self.context and self.where != "query":
            raise ConfigError("context: the demonstrations are seen while the query is described: where is 'query'.")

    @property
    def needs(self) -> frozenset[str]:
        reads = self.context or ("{facts}" in REQUESTS[self.ask] and self.where != "query")
        return frozenset({"model", "labels"} if reads else {"model"})

    def fitted(self, pool: Pool, model: Model | None) -> "FittedDescriptions":
        """The transform with its model. Raises PlanError without a model."""
        if model is None:
            raise PlanError("transform 'descriptions' needs a model that describes images, but there is none.")
        return FittedDescriptions(self, model)

    def transform(self, context: Context) -> Context:
        raise PlanError(
            "transform 'descriptions' needs a model. In Python, call fitted(pool, model). A run "
            "does this automatically."
        )


@dataclass(frozen=True)
class FittedDescriptions:
    """The transform `descriptions` with its model."""

    described: Descriptions
    model: Model

    @property
    def needs(self) -> frozenset[str]:
        return self.described.needs

    @property
    def where(self) -> Where:
        return self.described.where

    def transform(self, context: Context) -> Context:
        """The changed context. Raises ModelError, ImageError."""
        own = self.described
        items: list[Any] = [] if own.where == "query" else [demo.example for demo in sort_by_rank(context)]
        items += [] if own.where == "demos" else [context.query]
        items = [item for item in items if item.images]
        texts = answers(self.model, [self._description_prompt(item, context) for item in items], own.max_new_tokens)
        descriptions = {(item.id, isinstance(item, Example)): text for item, text in zip(items, texts, strict=True)}
        mark = f"descriptions: {own.ask}{', saw labels' if 'labels' in own.needs else ''}"
        return change_examples(context, own.where, lambda item: self._with_description(item, descriptions), mark)

    def _description_prompt(self, item: Any, context: Context) -> Prompt:
        facts = f"{item.question}\n" if item.question else ""
        if isinstance(item, Example):
            facts += f"Answer: {item.answer}\n"
        request = REQUESTS[self.described.ask].format_map({"facts": facts})
        parts = tuple(Part(image, spans.image(spans.QUERY, j)) for j, image in enumerate(item.images))
        turn = Turn("user", (*parts, Part("\n" + request)))
        if not self.described.context:
            return Prompt((turn,), context.key)
        before = demo_prompt(context.query, [demo.example for demo in context.demos], context.key)
        return Prompt((*before.turns[:-1], turn), context.key)

    def _with_description(self, item: Any, descriptions: Mapping[tuple[str, bool], str]) -> Any:
        description = descriptions.get((item.id, isinstance(item, Example)))
        if description is None:
            return item
        written = self.described.text.replace("{caption}", description)
        question = written + item.question if item.question else written.rstrip()
        return replace(item, question=question, images=item.images if self.described.keep else ())
