"""Demonstrations by a head that was fitted on the model's own feedback (EPR, Rubin et al., NAACL 2022; MSIER, Luo et
al. 2024).

    s(q, x) = (A v_q) . (B w_x) + u . w_x

v_q is the vector of the query, w_x the vectors of a demonstration and of its text, side by side. `icl fit` asks the
model how probable the gold of each training query is with one demonstration, for a few near and a few random
demonstrations of each query, and fits A, B and u (`retrievers.machinery.bilinear_head`). The embedder stays as it is:
the head sees nothing that the embedder does not. The embedder `mix` has two embedders side by side, `paired`
one for images and one for texts. Scores are comparable within a query only.

    preset epr      question of the query; question and answer of a demonstration; EPR's loss
    preset msier    image of the query; image, question and answer of a demonstration; EPR's loss

Controls are the same head with other feedback:

    permuted_queries       that of other queries: what a demonstration is worth to any query, and no match
    permuted_candidates    exchanged within a query: nothing is left
    same_answer            whether the demonstration has the query's answer: no call of the model

Differs from the released code in the encoders, which stay frozen under a linear head (both papers train them; MSIER the
query side alone); in the candidates, which are near and random, in place of 50 by BM25; and in the logits, which are
scaled (MSIER's are cosines without a temperature).

With `feedback: banzhaf`, the model reads random sets of the candidates, about as many as candidates, and a
demonstration's number is its Banzhaf value: what it adds to a set, not what it is worth alone.
"""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from icl import (
    ConfigError,
    Count,
    DataError,
    Example,
    NonNegative,
    Pool,
    Positive,
    PositiveInt,
    Query,
    RetrievedExample,
    StreamKey,
    component,
    later_parameter,
    pin_file,
    search_candidates,
)
from icl.tasks import image_digests
from retrievers import (
    EXCLUDE_LEAKS,
    MODALITIES_OF,
    EmbeddingSource,
    FittedRetriever,
    Neighbors,
    Resources,
    Retriever,
    SimilarityRetriever,
    TextField,
    Vectors,
    check_embedder,
    demo_text,
    fit_similarity,
    normalize_rows,
    open_source,
)
from retrievers.machinery.bilinear_head import (
    BilinearHead,
    BilinearTraining,
    Feedback,
    Loss,
    permute_candidates,
    permute_queries,
    probe,
    same_answer,
    side_by_side,
    train_bilinear,
    usable_queries,
)
from retrievers.machinery.trained_heads import banzhaf_values, complementary_sets, load_head, save_head
from retrievers.nearest import KNN

Control = Literal["none", "permuted_queries", "permuted_candidates", "same_answer"]
"""What the head is fitted on in the place of the model's feedback."""

FORMAT = "mm-icl learned retriever, 1"
TRAINED_ON = "learned: the head was trained on an image of this query"
PARTS = ("queries", "members", "bias")
SETTINGS = ("by", "text", "candidates", "loss", "dimensions", "steps", "rate", "decay", "temperature", "feedback")
"""Parameters that `icl fit` reads, and that the file then has."""


@dataclass(frozen=True, eq=False)
class LearnedHeads:
    """What `icl fit` writes for the retriever `learned`.

    Attributes:
        heads: A head for each control; `none` is the one of the model's feedback.
        embedder: Digest of the embedder.
        settings: The parameters of the fit, by name.
        record: The model, composer and task of the feedback, and `images`: digests of the training queries' images.
        report: Numbers of the fit.
    """

    heads: Mapping[str, BilinearHead]
    embedder: str
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    report: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        tensors = {f"{name}.{part}": getattr(head, part) for name, head in self.heads.items() for part in PARTS}
        metadata = {key: json.dumps(dict(getattr(self, key))) for key in ("settings", "record", "report")}
        save_head(path, tensors, {"format": FORMAT, "embedder": self.embedder, **metadata})


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> LearnedHeads:
    tensors, metadata = load_head(path, "a file that `icl fit` wrote for the retriever 'learned'")
    try:
        if metadata["format"] != FORMAT:
            raise DataError(f"{path} has the format '{metadata['format']}', and this version reads '{FORMAT}'.")
        heads = {name: BilinearHead(*(tensors[f"{name}.{part}"] for part in PARTS)) for name in get_args(Control)}
        texts = (json.loads(metadata[key]) for key in ("settings", "record", "report"))
        return LearnedHeads(heads, metadata["embedder"], *texts)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} was not written by `icl fit` for 'learned' ({type(error).__name__}: {error})."
        ) from error


@component("retriever", "learned")
@dataclass(frozen=True, kw_only=True)
class Learned(SimilarityRetriever):
    """Demonstrations by a head that `icl fit` trained on the model's own feedback (EPR, MSIER)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "epr": {"by": "question", "loss": "epr"},
        "msier": {"by": "image", "text": "both", "loss": "epr"},
    }
    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})

    fitted: str = ""  # file of `icl fit` with the head
    control: Control = "none"  # what the head was fitted on in the place of the model's feedback
    transfer: bool = False  # whether a head of another model, composer or task is allowed
    by: Literal["image", "question", "both"] = "image"  # what of a query, and of a demonstration, is embedded
    text: TextField | None = "answer"  # text of a demonstration that is embedded beside it; null: none
    candidates: PositiveInt = 8  # demonstrations scored for each training query, half of them near, half random
    loss: Loss = "list"  # of the fit: all numbers of a query, or EPR's good against bad ones
    dimensions: PositiveInt = 8  # of the head
    steps: Count = 300  # of the fit, with 64 queries each
    rate: Positive = 5e-3  # learning rate of AdamW
    decay: NonNegative = 0.1  # weight decay of AdamW
    temperature: Positive = 1.0  # of the loss `list`, in nats
    feedback: Literal["single", "banzhaf"] = later_parameter("single")  # of a demonstration alone, or its Banzhaf value
    code: str = ""  # digest of the content of `fitted`; set automatically

    def __post_init__(self) -> None:
        if not self.fitted:  # a file says what its embedder reads
            super().__post_init__()
        if not self.fitted and self.control != "none":
            raise ConfigError(
                f"control: {self.control} is a head in the file of a fit, and `fitted` names none. Run `icl fit`, then "
                "name its file."
            )
        path = next((path for path in search_candidates(self.fitted) if path.is_file()), None) if self.fitted else None
        object.__setattr__(self, "_path", path)
        if path is not None:
            pin_file(self, path, f"the head {self.fitted}")

    @property
    def modalities(self) -> frozenset[str]:
        return MODALITIES_OF[self.by] | ({"text"} if self.text else frozenset())

    @property
    def compared_text(self) -> TextField:
        return self.text or "question"

    @property
    def index_key(self) -> Hashable:
        return "learned", self.code, self.control

    @property
    def error_prefix(self) -> str:
        return f"by is '{self.by}' and text is '{self.text}', and "

    @property
    def file(self) -> LearnedHeads:
        """The heads. Raises ConfigError or DataError if there are none, or if they are of other settings."""
        path: Path | None = vars(self)["_path"]
        if path is None:
            missing = f"there is no file {self.fitted}" if self.fitted else "'learned' has no head yet"
            raise ConfigError(
                f"fitted: {missing}. `icl fit FILE 'retriever={{name: learned}}' --out head.safetensors` on a training "
                "split writes one. Then write retriever: {name: learned, fitted: head.safetensors}."
            )
        pin_file(self, path, f"the head {self.fitted}")
        file = _read(path, path.stat().st_mtime_ns)
        defaults = {field.name: field.default for field in fields(self)}
        for name in SETTINGS:
            fitted = file.settings.get(name, defaults[name])
            if getattr(self, name) not in (defaults[name], fitted):
                raise ConfigError(
                    f"{name}: {getattr(self, name)}, and {self.fitted} was fitted with {fitted}. Remove "
                    "the key, or fit again."
                )
        return file

    @property
    def fitted_on(self) -> Mapping[str, Any]:
        """The record of the fit; {} before it."""
        return self.file.record if self.fitted else {}

    def preflight(self) -> None:
        """Raises ConfigError, DataError or PlanError if there is no file, or one of another embedder."""
        check_embedder(f"the head {self.fitted}", self.file.embedder, self.embedder.digest)

    def controls(self) -> tuple[Retriever, ...]:
        """The same head with other feedback, and the nearest neighbors in the same vectors. None before the fit."""
        if vars(self)["_path"] is None or self.control != "none":
            return ()
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        others = [one for one in get_args(Control) if one != "none"]
        nearest = KNN(embedder=self.embedder, search=self.search, by=self.file.settings["by"])
        return (*(Learned(**{**own, "control": one}) for one in others), nearest)

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        self.preflight()
        return fit_similarity(self, pool, resources)

    def embed_documents(self, examples: Sequence[Example], source: EmbeddingSource) -> Vectors:
        """[N, d + 1] with lengths up to one. A common factor of all members changes no ranking."""
        settings = self.file.settings
        rows = self._head.member_rows(embed_members(examples, source, settings["by"], settings["text"]))
        return np.asarray(rows / max(float(np.linalg.norm(rows, axis=1).max(initial=0)), 1e-12), dtype=np.float32)

    def embed_queries(self, queries: Sequence[Query | Example], source: EmbeddingSource) -> Vectors:
        return normalize_rows(self._head.query_rows(embed_queries(queries, source, self.file.settings["by"])))

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        is_trained_on = not image_digests(neighbors.query).isdisjoint(self.file.record.get("images", ()))
        return neighbors.retrieved(range(k), TRAINED_ON if is_trained_on else "")

    @property
    def _head(self) -> BilinearHead:
        return self.file.heads[self.control]

    def feedback_candidates(
        self, queries: Sequence[Example], pool: Pool, resources: Resources
    ) -> Iterator[tuple[str, ...]]:
        """The demonstrations whose feedback the fit reads, for each query: the nearest ones, then random ones.

        Neither the query itself nor an example with one of its images is among them.
        """
        nearest = fit_similarity(KNN(embedder=self.embedder, by=self.by), pool, resources)
        inputs = [query.query for query in queries]
        for query, neighbors in zip(inputs, nearest.nearest(inputs, self.candidates // 2, EXCLUDE_LEAKS), strict=True):
            near = [neighbors.example(i).id for i in range(len(neighbors))]
            is_allowed = EXCLUDE_LEAKS.allowed_for(query)
            members = pool.in_random_order(StreamKey(resources.seed, query.id), "feedback")
            others = (member.id for member in members if member.id not in near and is_allowed(member))
            yield (*near, *islice(others, self.candidates - len(near)))

    def feedback_sets(
        self, query: Example, members: Sequence[Example], resources: Resources
    ) -> Sequence[Sequence[Example]]:
        """Each demonstration alone, or about as many random sets."""
        if self.feedback == "single":
            return [(member,) for member in members]
        rows = complementary_sets(len(members), StreamKey(resources.seed, query.id).numpy("feedback sets"))
        return [[member for member, is_in in zip(members, row, strict=True) if is_in] for row in rows]

    def member_values(self, scored: Sequence[tuple[Sequence[str], float]]) -> Mapping[str, float]:
        """The score of each demonstration alone, or its Banzhaf value."""
        if self.feedback == "single":
            return {key: score for (key,), score in scored}
        keys = list(dict.fromkeys(key for own, _ in scored for key in own))
        is_member = np.array([[key in own for key in keys] for own, _ in scored])
        values = banzhaf_values(is_member, np.array([score for _, score in scored]))
        return {key: value for key, value in zip(keys, values.tolist(), strict=True) if np.isfinite(value)}

    def learn(self, feedback: Feedback, record: Mapping[str, Any], resources: Resources) -> LearnedHeads:
        """The heads of the model's feedback and of its controls. Raises DataError if there are too few queries."""
        feedback = usable_queries(feedback)
        source = open_source(self.embedder, resources.cache, Pool(tuple(feedback.members)))
        x = embed_queries(feedback.queries, source, self.by)
        z = embed_members(feedback.members, source, self.by, self.text)
        training = BilinearTraining(
            self.loss, self.dimensions, self.steps, self.rate, self.decay, self.temperature, seed=resources.seed
        )
        rng = StreamKey(resources.seed).numpy("permuted feedback")
        targets = {
            "none": feedback.logprobs,
            "permuted_queries": permute_queries(feedback.logprobs, rng),
            "permuted_candidates": permute_candidates(feedback.logprobs, rng),
            "same_answer": same_answer(feedback),
        }
        heads = {name: train_bilinear(x, z, target, feedback.units, training) for name, target in targets.items()}
        own, without_match = probe(x, z, feedback.logprobs, feedback.units, training)
        report = {"probe": own, "probe_without_match": without_match}
        settings = {name: getattr(self, name) for name in SETTINGS}
        return LearnedHeads(heads, self.embedder.digest, settings, record, report)


def embed_queries(queries: Sequence[Query | Example], source: EmbeddingSource, by: str) -> Vectors:
    """Image, question, or both side by side: [N, Dq]."""
    images = [source.embed_images(queries)] if by != "question" else []
    questions = [source.embed_texts([query.question for query in queries])] if by != "image" else []
    return side_by_side([*images, *questions])


def embed_members(examples: Sequence[Example], source: EmbeddingSource, by: str, text: TextField | None) -> Vectors:
    """What `embed_queries` has, and the text of the demonstration: [N, De]."""
    texts = [source.embed_texts([demo_text(example, text) for example in examples])] if text else []
    images = [source.embed_images(examples)] if by != "question" else []
    questions = [source.embed_texts([example.question for example in examples])] if by != "image" else []
    return side_by_side([*images, *questions, *texts])
