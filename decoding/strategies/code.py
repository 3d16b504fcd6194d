"""CODE (Kim et al., NeurIPS 2024, 2406.01920): the model's own description of the image as the contrast.

    D = .5 sum_v (p + q) log2(|p - q|^kappa + 1)        p: with the image, q: with its description in its place
    scores = (2 - D) z(y | image) - (1 - D) z(y | description),      if p(y | image) >= D max p

D is in [0, 1]. If both distributions agree, the contrast is strongest and nothing is masked. If they differ, the best
token of the reference wins. The same model generates the description greedily, once for each image. It replaces the
image in the prompt, between the marks that the chat template writes around an image. Paper and code disagree on kappa
(`cd_alpha` in the code).

Differs from the released code in three points. The description is tokenized with its prompt; the release puts its
embeddings in place of the image tokens. Marks that a processor writes between the tiles of an image are dropped. D is
clipped to [0, 1], so that rounding cannot mask every token. The release reads `cd_beta` without using it, and its batch
size is 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from decoding import Generate, Note, Traits, UnitSumStrategy, bounded_divergence
from decoding.prompt_edits import replace_images
from icl import NonNegative, Part, PlanError, PositiveInt, Prompt, Tensor, Turn, component, spans, torch
from icl.types import Where

INSTRUCTION = (
    "Provide a detailed description of the image, covering all visible elements and their interactions, so as to "
    "thoroughly answer any potential questions about the image."
)


@component("strategy", "code")
@dataclass(frozen=True)
class CODE(UnitSumStrategy):
    """Contrast with the prompt in which the model's own description replaces the image.

    Presets. evaluation: argument of the script. fallback: default of the function, so small that D is close to 1.
    """

    kappa: NonNegative = 0.7  # exponent in the divergence; 0 makes D 1 and the method greedy
    max_new_tokens: PositiveInt = 512  # length limit of a description
    images: Where = "query"  # which images are described: those of the query, or of the demonstrations too
    instruction: str = INSTRUCTION  # asks the model for a description of an image
    in_image_slot: bool = True  # whether the chat template's marks around an image stay around its description

    traits = Traits(needs=frozenset({"generate", "logits"}), masks_in_combine=True)
    presets: ClassVar[dict[str, dict[str, float]]] = {"evaluation": {"kappa": 0.7}, "fallback": {"kappa": 0.2}}

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Mapping[str, str]]:
        """For each prompt: name of an image's part -> its description. Each distinct image is described once."""
        questions: dict[str, Prompt] = {}
        for prompt in prompts:
            for part in self._to_describe(prompt):
                parts = Part(part.content, spans.image(spans.QUERY)), Part(self.instruction, spans.QUESTION)
                questions.setdefault(_digest(part), Prompt((Turn("user", parts),), prompt.key))
        texts = generate(list(questions.values()), self.max_new_tokens) if questions else []
        descriptions = dict(zip(questions, texts, strict=True))
        return [{part.name: descriptions[_digest(part)] for part in self._to_describe(prompt)} for prompt in prompts]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with descriptions. note: the descriptions.

        Raises:
            PlanError: The prompt has images, but none belongs to the query.
        """
        if self.images == "query" and prompt.images and not self._to_describe(prompt):
            raise PlanError(
                "code describes the query's image, and this query has none. Leave out queries without images, or set "
                "images: all. In a prompt of your own, the part of the image is named 'query.image[0]'."
            )
        return prompt, replace_images(prompt, cast("Mapping[str, str]", note or {}), self.in_image_slot)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        original, described = logits
        divergence = bounded_divergence(original, described, self.kappa)
        scores: Tensor = (2 - divergence) * original - (1 - divergence) * described
        threshold = original.amax(-1, keepdim=True) + torch.log(divergence)
        return scores.masked_fill(original < threshold, -float("inf"))

    def _to_describe(self, prompt: Prompt) -> list[Part]:
        return [part for part in prompt.parts() if part.image is not None and part.within(self.images)]


def _digest(part: Part) -> str:
    return part.image.digest if part.image is not None else ""
