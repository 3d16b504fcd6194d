"""A multimodal model as an encoder (E5-V, Jiang et al. 2024): the hidden state before a summary in one word.

    <image>  Summary above image in one word:          <text>  Summary above sentence in one word:

The vector is the hidden state of the last layer at the last token, L2-normalized. Images and texts are in one space.
The paper trains the model on text pairs; without training the prompt works less well. The model must have the ability
'embed'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from icl import ConfigError, Example, Model, NestedComponent, Part, Prompt, Query, Turn, component
from retrievers import EmbedderPlacement, Vectors, all_images, mean_per_item, stack_batches

BATCH = 16


@component("embedder", "e5v")
@dataclass(frozen=True, kw_only=True)
class E5V:
    """The hidden state of a multimodal model before a summary in one word (E5-V)."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    model: Annotated[Model, NestedComponent("model")]  # the model with the hidden states; it needs the ability 'embed'

    def __post_init__(self) -> None:
        if "embed" not in self.model.abilities:
            raise ConfigError(
                f"embedder 'e5v' needs hidden states, and {self.model!r} gives {', '.join(self.model.abilities)}. "
                f"Use a model with the ability 'embed', or the embedder 'encoder'."
            )

    @property
    def placement(self) -> EmbedderPlacement:
        """The device of the model. Its dtype is a part of the digest."""
        kind = self.model.device_type
        return EmbedderPlacement(kind, "float32" if kind == "cpu" else "auto")

    @property
    def digest(self) -> str:
        return f"one_word-1-{self.model.digest}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        prompts = [_prompt(Part(image), Part("\nSummary above image in one word:")) for image in all_images(items)]
        return mean_per_item(items, self._states(prompts))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._states([_prompt(Part(f"{text}\nSummary above sentence in one word:")) for text in texts])

    def _states(self, prompts: list[Prompt]) -> Vectors:
        self.model.load()
        model: Any = self.model
        rows = [model.embed(prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
        return stack_batches(rows)


def _prompt(*parts: Part) -> Prompt:
    return Prompt((Turn("user", parts),))
