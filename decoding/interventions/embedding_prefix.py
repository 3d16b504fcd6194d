"""A vector of an image-text space as virtual tokens before the query; learned from texts, used with images.

Zhang et al., Connect, Collapse, Corrupt: Learning Cross-Modal Tasks with Uni-Modal Data, ICLR 2024 (arXiv 2401.08567),
and Gu et al., I Can't Believe There's No Images! (CLOSE), ICCV 2023 (arXiv 2211.09778), which has the noise alone.

    e       = unit vector of the query's image, or of the text that stands for it, by `embedder`
    x       = unit(e - mean + n)      mean: of e's modality, if `center` names a task (collapse)
                                      n ~ N(0, sd^2) in training, new in each step; 0 in use (corrupt)
    prompt  input embeddings W_1 x + b_1, ..., W_count x + b_count, then the query without its image

`icl fit` trains W and b on queries whose images are written as words, and the file answers about images:

    tune: {task: {name: as_text, of: captions}, parameters: vectors,
           intervene: {name: embedding_prefix, center: captions}}

The mean of texts is over the first training prompts, that of images over the queries of the task `center`, whose texts
and answers are not read. Controls: `sd: 0`, no `center`, images of other queries, and `random`, a map of equal norm.

Differs from the released code in the map, which is affine (there two layers with tanh), and in the model, which is
frozen (there it learns, too).
"""

# ruff: noqa: RUF036  pydantic uses the first matching member of a union: None is no task

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, ClassVar

from decoding import FittedTensors, tensor_digest
from decoding.interventions.virtual_tokens import START_PROMPTS, EmbeddingEdit, VirtualTokenMethod, with_slots
from icl import (
    ConfigError,
    DataError,
    Example,
    NestedComponent,
    NonNegative,
    Part,
    PositiveInt,
    Prompt,
    Tensor,
    build,
    canonical_digest,
    component,
    spans,
    steer,
    torch,
)
from icl.models.hf.model import HF


def bridged(vectors: Tensor, mean: Tensor, noise: Tensor | None = None) -> Tensor:
    """Unit rows of vectors minus the mean of their modality, plus noise: [n, e], [n or 1, e], [n, e] -> [n, e]."""
    moved = vectors - mean if noise is None else vectors - mean + noise
    rows: Tensor = moved / moved.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return rows


def prefix(affine: Tensor, vector: Tensor) -> Tensor:
    """Virtual tokens [count, d] of a vector [e] under a map [1 + e, count, d], whose first row is the intercept."""
    return affine[0] + torch.einsum("e,ecd->cd", vector.to(affine), affine[1:])


@component("intervention", "embedding_prefix")
@dataclass(frozen=True)
class EmbeddingPrefix(VirtualTokenMethod):
    """The query's image as virtual tokens, by a map from an image-text space that `icl fit` trains on texts alone.

    Control: a random map of equal norm.
    """

    embedder: Annotated[Any, NestedComponent("embedder")] = field(  # makes the vectors of images and texts
        default_factory=lambda: build("embedder", "encoder")
    )
    pattern: str = r"image: (.*?)\. "  # regular expression; group 1 is the text that stands for the query's image
    count: PositiveInt = 8  # training: number of virtual tokens
    sd: NonNegative = 0.1265  # training: standard deviation of the noise in each dimension; 0: none
    center: None | Annotated[Any, NestedComponent("task")] = None  # training: task; its images' mean is subtracted

    tensor: ClassVar[str] = "map"
    reads_demonstrations: ClassVar[bool] = False
    min_fit_shots: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ConfigError(f"pattern: '{self.pattern}' is no regular expression: {error}.") from error
        if groups < 1:
            raise ConfigError(f"pattern: '{self.pattern}' has no group for the text. Put it in (parentheses).")

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        self.check(model)
        if self.file.parameters["embedder"] != self.embedder.digest:
            raise ConfigError(
                f"{self.file.path} was trained with embedder {self.file.parameters['embedder']}, but `embedder` is "
                f"{self.embedder.digest}. Set `embedder` to that of the training."
            )
        own = FittedTensors({self.tensor: self.vectors}, self.file.parameters, {})
        vectors = bridged(*self._views(prompts, own.parameters["means"]))
        return self._steered(prompts, vectors, own, model, (self.file.digest, self.control, self.draw))

    def start(self, model: HF, prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        vectors, _ = self._views(list(islice(prompts, START_PROMPTS)))
        means = {"text": torch.zeros(vectors.shape[1]), "image": torch.zeros(vectors.shape[1])}
        if self.center is not None:
            images = [one.query for one in self.center.queries if one.query.images]
            if not images:
                raise DataError("center: the task has no images, so their mean is unknown. Name a task with images.")
            means = {"text": vectors.mean(0), "image": torch.from_numpy(self.embedder.embed_images(images)).mean(0)}
        generator = torch.Generator().manual_seed(seed)
        affine = torch.randn(1 + vectors.shape[1], self.count, model.sites.width, generator=generator)
        affine *= model.engine.runner.model.get_input_embeddings().weight.detach().float().std().cpu()
        affine[0] = 0
        parameters = {"embedder": self.embedder.digest, "means": {name: one.tolist() for name, one in means.items()}}
        return FittedTensors({self.tensor: affine}, parameters, {})

    def steered_by(self, trained: FittedTensors, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        vectors, means = self._views(prompts, trained.parameters["means"])
        name = [tensor_digest(trained.tensors[self.tensor].detach()), [one.digest for one in prompts]]
        generator = torch.Generator().manual_seed(int(canonical_digest(["corrupt", *name])[:15], 16))
        noise = self.sd * torch.randn(vectors.shape, generator=generator)  # other ones in each step, equal on a resume
        return self._steered(prompts, bridged(vectors, means, noise), trained, model, ("in training",))

    def _steered(
        self,
        prompts: Sequence[Prompt],
        vectors: Tensor,
        own: FittedTensors,
        model: HF,
        name: tuple[object, ...],
    ) -> list[Prompt]:
        """The queries behind their virtual tokens. name: of the map, in the digests of edits."""
        made = []
        for prompt, vector in zip(prompts, vectors, strict=True):
            values = prefix(own.tensors[self.tensor], vector)
            digest = canonical_digest(["embedding prefix", *name, self.strength, vector.tolist()])
            bare = prompt.without_images().map(self._without_text)
            made.append(steer(with_slots(bare, len(values), model), EmbeddingEdit(values, digest, self.strength)))
        return made

    def _without_text(self, part: Part) -> Part:
        if part.name != spans.QUESTION or part.text is None:
            return part
        rest = re.sub(self.pattern, "", part.text, count=1)
        return replace(part, content=f"\n{rest}")  # no token joins the virtual ones and the question

    def _views(self, prompts: Sequence[Prompt], means: Any = None) -> tuple[Tensor, Tensor]:
        """Vectors of the queries' images or texts [n, e], and the mean of the modality of each, or zeros [n, e]."""
        rows: list[Tensor] = []
        for prompt in prompts:
            images = tuple(p.image for p in prompt.parts() if p.image is not None and spans.is_query(p.name))
            question = next((p.text or "" for p in prompt.parts() if p.name == spans.QUESTION), "")
            match = re.search(self.pattern, question)
            if images:
                own = self.embedder.embed_images([Example(prompt.digest, images, "", ("",))])
            elif match is not None:
                own = self.embedder.embed_texts([match[1]])
            else:
                raise DataError(
                    f"embedding_prefix: the query {prompt.key.query} has no image, and pattern '{self.pattern}' finds "
                    "no text for it in its question. Set pattern, or use a task with images, or as_text."
                )
            row = torch.from_numpy(own[0])
            rows.append(torch.stack([row, torch.tensor(means["image" if images else "text"]) if means else 0 * row]))
        vectors, own_means = torch.stack(rows).unbind(1)
        return vectors, own_means
