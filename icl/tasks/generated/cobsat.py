"""CoBSAT in text mode (Zeng et al., 2402.01293): the demonstrations fix a latent word, the query gives the other one.

Every demonstration has a text, an image and a description. With the latent attribute "red", the texts are objects:

    star    [image of a red star]     red star
    arch    [image of a red arch]     red arch
    cross                             red cross          (the query, without an image)

The latent word occurs in no text, so it must come from the images, or from the descriptions. A model that answers with
text describes the next image; the metric `cobsat` reads both words. The control is the transform `images` with `how:
removed`: the descriptions alone. The published test has ten tasks with ten words a side; this one is generated, with
three attributes of a shape, and either side can be latent. Options replace the latent word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl import ConfigError, Example, GeneratedCount, Pool, StreamKey, component, parameter
from icl.tasks.generated import VALUES, Drawing, balanced_choice, choice, query_id, query_number, shuffled

Attribute = Literal["color", "texture", "size"]


@component("task", "cobsat")
@dataclass(frozen=True)
class CobsatTask:
    """Descriptions of the next image: the demonstrations fix one word, and the query gives the other."""

    attribute: Attribute = "color"  # attribute of the shape
    latent: Literal["attribute", "shape"] = "attribute"  # word that only the demonstrations give
    support: GeneratedCount = 7  # examples in a query's pool, each with another word; at most the number of words - 1
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if self.support >= len(self.texts):
            raise ConfigError(
                f"support {self.support} is more than the {len(self.texts) - 1} other words of the texts "
                f"({', '.join(self.texts)})."
            )

    @property
    def title(self) -> str:
        return f"CoBSAT · {self.attribute}, {self.latent} latent"

    @property
    def texts(self) -> tuple[str, ...]:
        """The words of the texts."""
        return VALUES["shape" if self.latent == "attribute" else self.attribute]

    @property
    def latents(self) -> tuple[str, ...]:
        """The words that can be latent."""
        return VALUES[self.attribute if self.latent == "attribute" else "shape"]

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self.example(number, *self._words(number)) for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("cobsat", query_id, self.query_limit))

    @property
    def pool_size(self) -> int:
        return self.support

    def example(self, number: int, latent: str, text: str, demo: int | None = None) -> Example:
        """The query with this number, without its image; or an example of its pool."""
        name = query_id("cobsat", number) + ("" if demo is None else f"-s{demo:03d}")
        facts: Mapping[str, str] = dict(zip((self.attribute, "shape"), self._in_order(latent, text), strict=True))
        stream = f"cobsat/{self.attribute}/{latent}/{text}/{'query' if demo is None else number}"
        image = Drawing(self.seed, stream, "single", **facts).image  # type: ignore[arg-type]  # keys by name
        return Example(
            id=name,
            images=() if demo is None else (image,),
            question=text,
            answers=(" ".join(self._in_order(latent, text)),),
            options=tuple(" ".join(self._in_order(word, text)) for word in self.latents),
            meta={"words": {"latent": list(self.latents), "text": list(self.texts)}},
            secret={"latent": latent, "text": text},
        )

    def _words(self, number: int) -> tuple[str, str]:
        """The latent word and the text of a query."""
        rng = StreamKey(self.seed, query_id("cobsat", number)).numpy("text")
        return balanced_choice(self.seed, "cobsat/latent", number, self.latents), choice(rng, self.texts)

    def _in_order(self, latent: str, text: str) -> tuple[str, str]:
        return (latent, text) if self.latent == "attribute" else (text, latent)


@lru_cache(maxsize=512)
def _pool(task: CobsatTask, number: int) -> Pool:
    latent, text = task._words(number)
    rng = StreamKey(task.seed, query_id("cobsat", number)).numpy("pool")
    texts = shuffled(rng, [word for word in task.texts if word != text])[: task.support]
    return Pool(tuple(task.example(number, latent, word, i) for i, word in enumerate(texts)))
