"""X-MoRe's ensemble (Eom et al., 2308.15273): mixture of image and retrieved texts, weighted by confidence.

    p = w_1 p(y | image alone) + w_2 p(y | texts, no image),      w = softmax(-entropies)

In the paper, CLIP classifies by the image and by retrieved captions, and the more confident view has more weight. Here
the first view is the query without demonstrations. The second one is the demonstrations without the query's image, or,
with a file of `captions`, the question after the `k` captions that are nearest to the image. The whole prompt is branch
0, for traces and controls, and has no weight. `normalized` are the paper's weights, 1 - H / ln V, without their running
normalization; V is the size of the vocabulary. Controls: `choice: random` captions, and the same captions in one prompt
(`view: one_prompt`).

Differs from the released code in the weights (there normalized by running sums over the queries before), and in the
text view (there the mean vector of the captions is classified by CLIP).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from decoding import Note, UnitSumStrategy, entropy, remove_demonstrations, remove_query_image, wrap_question
from icl import ConfigError, PlanError, PositiveInt, Prompt, Query, Tensor, build, component, later_parameter, torch
from icl import parameter_files as files
from icl.lru_cache_bytes import LRUByteCache

_VECTORS = LRUByteCache[tuple[str, str], Any](64 * 2**20, lambda vectors: vectors.nbytes + 200)
"""Vectors of the captions of the latest files, by embedder and content."""


@component("strategy", "xmore")
@dataclass(frozen=True)
class XMoRe(UnitSumStrategy):
    """Mixture of two views, the image and retrieved texts, weighted by their confidence."""

    by: Literal["entropy", "inverse", "confidence", "normalized"] = "entropy"  # ~ exp(-H), 1 / H, max p, 1 - H / ln V
    captions: str | None = later_parameter(None)  # text file with a caption on each line; None: demonstrations
    k: PositiveInt = later_parameter(16)  # number of captions
    choice: Literal["nearest", "random"] = later_parameter("nearest")  # how captions are chosen
    view: Literal["mixture", "one_prompt"] = later_parameter(
        "mixture"
    )  # two views, or image and captions in one prompt
    embedder: Any = later_parameter("encoder")  # embedder of images and captions: its name, or a mapping
    code: str = later_parameter("")  # digest of the file, set automatically
    _captions: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.captions is None:
            if self.view == "one_prompt":
                raise ConfigError("view: one_prompt shows captions. Set captions to a file.")
            return
        content = files.read(files.find(self.captions, "file of captions"), "captions")
        files.pin(self, content, self.captions)
        captions = tuple(dict.fromkeys(line.strip() for line in content.splitlines() if line.strip()))
        if len(captions) < self.k:
            raise ConfigError(
                f"captions: {self.captions} has {len(captions)} different captions, fewer than k: {self.k}."
            )
        object.__setattr__(self, "_captions", captions)
        embedder = build("embedder", self.embedder)  # refuses an unknown name
        if isinstance(self.embedder, Mapping):  # a strategy can be hashed
            object.__setattr__(self, "embedder", embedder)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and the two views; or the prompt, and the one with the captions."""
        if self.captions is None:
            return prompt, remove_demonstrations(prompt), remove_query_image(prompt)
        query = remove_demonstrations(prompt)
        texts = "".join(f"{caption}\n" for caption in self._chosen(prompt))
        described = wrap_question(query, before=f"Captions of similar images:\n{texts}")
        return (prompt, described) if self.view == "one_prompt" else (prompt, query, remove_query_image(described))

    def combine(self, logits: Tensor, step: int) -> Tensor:
        views = logits[1:].log_softmax(-1)
        if len(views) == 1:
            return views[0]
        return torch.logsumexp(views + self._view_weights(views).log(), 0)

    def _view_weights(self, views: Tensor) -> Tensor:
        """Weights that sum to one: log-probabilities [2, B, V] -> [2, B, 1]."""
        if self.by == "entropy":
            return (-entropy(views)).softmax(0)
        if self.by == "normalized":
            weights = (1 - entropy(views) / math.log(views.shape[-1])).clamp(min=1e-6)
        elif self.by == "confidence":
            weights = views.amax(-1, keepdim=True).exp()
        else:
            weights = 1 / entropy(views).clamp(min=1e-6)
        return weights / weights.sum(0)

    def _chosen(self, prompt: Prompt) -> list[str]:
        """The captions of a prompt, the nearest last."""
        if self.choice == "random":
            order = prompt.key.order("xmore/captions", self._captions)
            return [self._captions[place] for place in order[: self.k]]
        images = tuple(p.image for p in prompt.parts() if p.image is not None and p.within("query"))
        if not images:
            raise PlanError(
                "xmore compares captions with the query's image, and the query has none. Leave captions out."
            )
        embedder = build("embedder", self.embedder)
        key = (embedder.digest, self.code)
        vectors = _VECTORS.get(key)
        if vectors is None:
            vectors = _VECTORS.put(key, embedder.embed_texts(self._captions))
        scores = vectors @ embedder.embed_images([Query("query", images, "")])[0]
        best = sorted(range(len(scores)), key=lambda i: -float(scores[i]))[: self.k]
        return [self._captions[place] for place in reversed(best)]
