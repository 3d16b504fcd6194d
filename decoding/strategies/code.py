"""CODE (Kim et al., NeurIPS 2024, 2406.01920): the model's own description of the image as the contrast.

    D = .5 sum_v (p + q) log2(|p - q|^kappa + 1)        p: with the image, q: with its description in its place
    scores = (2 - D) z(y | image) - (1 - D) z(y | description),      kept where p(y | image) >= D max p

D is in [0, 1]. Where both agree the contrast is strongest and nothing is masked; where they differ, the best token of
the image wins. The description is asked of the same model, greedily, once for each image, and stands where the
image stood. Papers and code disagree on kappa (the code's `cd_alpha`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from decoding.base import Generate, Note, Strategy, unit_strength
from decoding.formulas.divergences import bounded_divergence
from decoding.prompt_edits import replace_images
from decoding.traits import Traits
from icl import spans
from icl.constraints import NonNegative, PositiveInt
from icl.errors import PlanError
from icl.registry import component
from icl.types import Part, Prompt, Turn, Where

if TYPE_CHECKING:
    from torch import Tensor

DESCRIBE = (
    "Provide a detailed description of the image, covering all visible elements and their interactions, so as to "
    "thoroughly answer any potential questions about the image."
)


@component("strategy", "code")
@dataclass(frozen=True)
class CODE(Strategy):
    """Away from what the model says with its own description in the image's place, as far as both agree.

    Presets. evaluation: the script's argument. fallback: the function's own default; so small that D is near 1.
    """

    kappa: NonNegative = 0.7  # exponent in the divergence; 0 makes D 1 and the method greedy
    tokens: PositiveInt = 512  # most tokens of a description
    images: Where = "query"  # which are described: the query's alone, or the demonstrations' too
    ask: str = DESCRIBE  # what the model is asked about each image

    traits = Traits(needs=frozenset({"generate", "logits"}), masks_in_combine=True)
    presets: ClassVar[dict[str, dict[str, float]]] = {"evaluation": {"kappa": 0.7}, "fallback": {"kappa": 0.2}}

    @property
    def weights(self) -> None:
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Mapping[str, str]]:
        """For each prompt: name of an image's part -> its description. Each distinct image is described once."""
        questions: dict[str, Prompt] = {}
        for prompt in prompts:
            for part in self._to_describe(prompt):
                asked = Turn("user", (Part(part.content, spans.image(spans.QUERY)), Part(self.ask, spans.QUESTION)))
                questions.setdefault(_digest(part), Prompt((asked,), prompt.key))
        texts = generate(list(questions.values()), self.tokens) if questions else []
        told = dict(zip(questions, texts, strict=True))
        return [{part.name: told[_digest(part)] for part in self._to_describe(prompt)} for prompt in prompts]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """note: what `prepare` gave. Raises PlanError where the prompt has images and none is to be described."""
        if self.images == "query" and prompt.images and not self._to_describe(prompt):
            raise PlanError(
                "code describes the query's image, and no image of this prompt is named 'query.image[...]'. "
                "Name it, or set images: all."
            )
        return prompt, replace_images(prompt, cast("Mapping[str, str]", note or {}))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        import torch

        seen, told = logits
        apart = bounded_divergence(seen, told, self.kappa)
        scores: Tensor = (2 - apart) * seen - (1 - apart) * told
        return scores.masked_fill(seen < seen.amax(-1, keepdim=True) + torch.log(apart), -float("inf"))

    def _to_describe(self, prompt: Prompt) -> list[Part]:
        return [part for part in prompt.parts() if part.image is not None and part.within(self.images)]


def _digest(part: Part) -> str:
    return part.image.digest if part.image is not None else ""
