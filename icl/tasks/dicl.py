"""Machine Vision Therapy (DICL; Huang et al., 2312.02546): a multimodal model checks the predictions of another model.

Another classifier predicts the class of each image. For each query, the model is asked about the prediction p and the
classes that are often confused with it, each time after two demonstrations:

    T[c, .] = mean class probabilities of the classifier over support images of class c, each row scaled to [0, 1]
    candidates: p, and the classes i with the highest T[i, p]
    for candidate c: an image of c, "is this a photo of p?" no; the same image, "... of c?" yes; the query, "... of c?"

A question with an exemplar is one query of this task; the questions of an image share a group. The metric
`dicl_accuracy` accepts p or takes the best candidate, and `dicl_corrected` and `dicl_broken` count changes. Use
`shots: 2`, `retriever: random`, `order: as_retrieved` and `answer_mode: options`. One candidate changes nothing.

The other classifier is an embedder, or a file:

    embedder     softmax over classes c of 100 cos(image, c); c is the text `class_text`, or with `classifier: means`
                 the mean of the pool's images of the class, without the image itself
    predictions  a JSON object with the class probabilities of every example of the task, queries and pool, by id:
                 {"q-1": {"cat": 0.7, "dog": 0.3}}. It has no digests of images, so predictions for other images
                 under the same ids are not noticed

`icl analyze RUN corrected_labels` exports the corrected class of each image. `denoised_classifier` tunes a head of the
embedder on these classes (the third step of the paper), with controls.

Differs from the released code in the support images, which are all of the pool (there about ten over the range of
confidence), and in the exemplars, which are nearest by confidence (there the signed difference is sorted).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from icl import ConfigError, DataError, Example, SeveralPoolsTask, Task
from icl import parameter_files as files
from icl.registry import NestedComponent, PositiveInt, component, later_parameter

Probabilities = Mapping[str, Mapping[str, float]]


SCALE = 100
"""The factor by which CLIP multiplies cosines."""


def class_probabilities(cosines: Any) -> Any:
    """Softmax of 100 cosines of images with classes, [N, C]."""
    shares = np.exp(SCALE * (cosines - cosines.max(axis=1, keepdims=True)))
    return shares / shares.sum(axis=1, keepdims=True)


def mean_cosines(images: Any, of_class: Any) -> Any:
    """Cosines of images with the mean image of each class, without the image itself.

    Args:
        images: Unit rows, [N, D].
        of_class: [N, C], 1 if an image is a support image of the class, else 0.
    """
    sums = of_class.T @ images
    dots = images @ sums.T
    squares = (sums**2).sum(axis=1) - (2 * dots - 1) * of_class  # |sum - x|^2
    return (dots - of_class) / np.sqrt(np.maximum(squares, 1e-9))


def transition_matrix(rows: Sequence[Mapping[str, float]], labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """T[c, j]: the mean probability of class j over support images of class c, each row scaled to [0, 1].

    Args:
        rows: Class probabilities of the support images.
        labels: The true class of each.
        classes: The classes, in the order of the matrix.
    """
    matrix = np.zeros((len(classes), len(classes)))
    for place, name in enumerate(classes):
        own = [
            [row.get(other, 0.0) for other in classes] for row, label in zip(rows, labels, strict=True) if label == name
        ]
        if own:
            mean = np.mean(own, axis=0)
            spread = mean.max() - mean.min()
            matrix[place] = (mean - mean.min()) / spread if spread > 0 else 0.0
    return matrix


def candidate_classes(prediction: str, matrix: np.ndarray, classes: Sequence[str], count: int) -> list[str]:
    """The prediction, then the classes that are most often taken for it: at most `count`."""
    column = matrix[:, list(classes).index(prediction)]
    others = sorted((c for c in classes if c != prediction), key=lambda c: -column[list(classes).index(c)])
    return [prediction, *others][:count]


@component("task", "dicl")
@dataclass(frozen=True, kw_only=True)
class DICLTask(SeveralPoolsTask):
    """Yes/no questions whether the class that another classifier predicted, or one confused with it, is right."""

    pool_size: ClassVar[int] = 2

    pool_shares_images: ClassVar[bool] = True

    of: Annotated[Task, NestedComponent("task")]  # classification task with one shared pool
    predictions: str = ""  # JSON file: example id -> class -> probability; empty: the predictions of `embedder`
    embedder: Annotated[Any, NestedComponent("embedder")] = later_parameter(None)  # the other classifier
    classifier: Literal["texts", "means"] = later_parameter("texts")  # what stands for a class: a text, or its images
    class_text: str = later_parameter("a photo of a {name}")  # text of a class with the placeholder {name}
    candidates: PositiveInt = 6  # number of classes to ask about for each image, the prediction among them
    exemplars: PositiveInt = 3  # number of exemplar images for each candidate
    question: str = "is this a photo of {name}?"  # question with the placeholder {name}
    code: str = ""  # digest of the file, set automatically

    def __post_init__(self) -> None:
        for key in ("question", "class_text"):
            if getattr(self, key).count("{name}") != 1:
                raise ConfigError(f"{key} must contain {{name}} once, in the place of the class.")
        if bool(self.predictions) == (self.embedder is not None):
            raise ConfigError("dicl corrects one classifier: set either `predictions`, a file, or `embedder`.")
        if self.embedder is not None:
            return
        content = files.read(files.find(self.predictions, "file of predictions"), "predictions")
        files.pin(self, content, self.predictions)
        object.__setattr__(self, "_content", content)

    @property
    def title(self) -> str:
        return f"DICL · {self.of.title}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(check for check, _ in self._checks)

    def pool_key(self, query_id: str) -> str | None:
        return query_id if query_id in self._pairs else None

    @cached_property
    def _pairs(self) -> Mapping[str, tuple[Example, str, str]]:
        """The exemplar, the candidate and the prediction of each query of this task."""
        return {check.id: pair for check, pair in self._checks}

    @cached_property
    def support(self) -> tuple[Example, ...]:
        """The examples with true classes."""
        return self.of.pool(self.of.queries[0].id).examples

    @cached_property
    def _probabilities(self) -> Probabilities:
        """The predictions for the support, then for the queries."""
        examples, own = [*self.support, *self.of.queries], sorted({e.class_name for e in self.support})
        if self.embedder is not None:
            rows = self._predicted(examples, own)
            return {e.id: dict(zip(own, row, strict=True)) for e, row in zip(examples, rows, strict=True)}
        try:
            table = json.loads(self.__dict__["_content"])
        except ValueError as error:
            raise ConfigError(f"predictions {self.predictions} is not JSON: {error}.") from error
        if not isinstance(table, dict) or not all(isinstance(row, dict) and row for row in table.values()):
            raise ConfigError(f"predictions {self.predictions} must map ids to classes and probabilities.")
        missing = [e.id for e in examples if e.id not in table]
        other = f"predictions {self.predictions} is of another data set:"
        if len(missing) == len(examples):
            raise DataError(f"{other} it has none of the {len(examples)} examples of {self.of.title}.")
        if missing:
            raise DataError(
                f"predictions {self.predictions} has no example '{missing[0]}', and misses {len(missing)} of the "
                f"{len(examples)} examples of {self.of.title}. Add their probabilities."
            )
        shares = ((e.id, name, share) for e in examples for name, share in table[e.id].items())
        if wrong := next((one for one in shares if not (type(one[2]) in (int, float) and 0 <= one[2] <= 1.001)), None):
            raise DataError(
                f"predictions {self.predictions}: the probability of '{wrong[1]}' for example '{wrong[0]}' must be a "
                f"number from 0 to 1, not {wrong[2]!r}."
            )
        if not {name for e in examples for name in table[e.id]} & {*own}:
            named = ", ".join([*table[examples[0].id]][:3])
            raise DataError(f"{other} its classes ({named}) are none of {self.of.title} ({', '.join(own[:3])}).")
        return table

    def _predicted(self, examples: Sequence[Example], classes: Sequence[str]) -> list[list[float]]:
        images = np.asarray(self.embedder.embed_images(examples), dtype=np.float64)
        if self.classifier == "texts":
            texts = self.embedder.embed_texts([self.class_text.replace("{name}", name) for name in classes])
            cosines = images @ texts.T
        else:
            support = {e.id for e in self.support}
            members = [[e.id in support and e.class_name == name for name in classes] for e in examples]
            cosines = mean_cosines(images, np.array(members, dtype=np.float64))
        rows: list[list[float]] = class_probabilities(cosines).tolist()
        return rows

    @cached_property
    def _checks(self) -> list[tuple[Example, tuple[Example, str, str]]]:
        """Each query of this task with its exemplar, candidate and prediction."""
        support = self.support
        classes = sorted(
            {e.class_name for e in support} | {name for e in support for name in self._probabilities[e.id]}
        )
        matrix = transition_matrix(
            [self._probabilities[e.id] for e in support], [e.class_name for e in support], classes
        )
        checks = []
        for query in self.of.queries:
            shares = self._probabilities[query.id]
            prediction = max(shares, key=lambda name: shares[name])
            if all(e.class_name != prediction for e in support):
                raise DataError(
                    f"predictions {self.predictions}: '{prediction}' is predicted for query '{query.id}' and has no "
                    "image in the pool, so the model cannot be asked about it. Leave it out of the file, or add images."
                )
            for name in candidate_classes(prediction, matrix, classes, self.candidates):
                own = sorted(
                    (e for e in support if e.class_name == name),
                    key=lambda e: abs(self._probabilities[e.id].get(name, 0.0) - shares[prediction]),
                )[: self.exemplars]
                for place, exemplar in enumerate(own):
                    answer = "yes" if name == query.class_name else "no"
                    check = self._example(f"{query.id}-{name}-{place}", query, name, answer)
                    facts = {"candidate": name, "prediction": prediction, "confidence": shares[prediction]}
                    check = replace(check, group=query.id, meta={**facts, "exemplar": place})
                    checks.append((check, (exemplar, name, prediction)))
        return checks

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        """The exemplar asked about the prediction (no), then about its own class (yes)."""
        exemplar, name, prediction = self._pairs[key]
        others = [c for c in self._probabilities[exemplar.id] if c != name]
        wrong = (
            prediction
            if prediction != name
            else max(others, key=lambda c: self._probabilities[exemplar.id][c], default="nothing")
        )
        return tuple(
            self._example(f"{key}-s{i}", exemplar, class_name, answer)
            for i, (class_name, answer) in enumerate(((wrong, "no"), (name, "yes")))
        )

    def _example(self, name: str, source: Example, class_name: str, answer: str) -> Example:
        return Example(
            id=name,
            images=source.images,
            question=self.question.replace("{name}", class_name),
            answers=(answer,),
            options=("yes", "no"),
            label=answer,
            secret={"class": source.class_name},
        )
