"""VL-ICL's own files (Zong et al., ICLR 2025; MIT): `query.json` and `support.json` of a task, and its images.

    open_mi                            made-up names: `ways` classes of the query, alternating, one pool for each query
    operator_induction[_interleaved]   the pool's answers follow the query's operator
    matching_mi                        each pair of the pool is a same one and a different one, in a random order
    clevr, textocr                     one pool for all
    cobsat                             in text mode: the pool has the query's task and latent word

Use the metrics `vl_icl` (the released rules), `strict` and `lenient`, and `cobsat` for cobsat. There a model describes
the next image with two words in place of making it, and the query has no image. Tasks with an image as the answer
(open_t2i_mi and similar) are not supported. Any other name is a folder in the same layout with one pool for all, such
as those of TrueMICL (2507.15807; hub id ShuoChen99/TrueMICL): `task: sudoku`.

In the released matching task the order is always same, different, so the last demonstration says no. `official_order`
keeps this for retrievers that keep the pool's order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from icl import ConfigError, DataError, Example, Image, PositiveInt, StreamKey, component
from icl.tasks.base import LimitedTask, SeveralPoolsTask, limited_choice
from icl.tasks.cell_values import RelativePaths
from icl.tasks.generated.episode import shuffled

IMAGE_ANSWERS = ("open_t2i_mi", "fast_attr_t2i", "fast_count_t2i", "operator_induction_t2i")
"""Tasks of the release with an image as the answer."""
KEYS = ("image", "question", "answer")
OPERATORS = ("+", "-", "x")
NAMING = "This is a"
Row = Mapping[str, Any]


@component("task", "vl_icl")
@dataclass(frozen=True)
class VLICLTask(RelativePaths, SeveralPoolsTask, LimitedTask):
    """A task of VL-ICL Bench from its released files, with a support pool for each query."""

    path: str  # folder of VL-ICL's release, with a folder for each task
    task: str = "open_mi"  # name of the task, which is a folder of `path`
    ways: PositiveInt = 2  # open_mi: classes in a query's pool, of its five
    official_order: bool = False  # matching_mi: whether the order is always same, different

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task in IMAGE_ANSWERS:
            raise ConfigError(f"task '{self.task}' asks for an image as its answer, which no model here gives.")

    @property
    def title(self) -> str:
        return f"VL-ICL {self.task}"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = self._read("query.json")
        ids = [f"query-{i}" for i in range(len(rows))]
        chosen = limited_choice(ids, self.query_limit, self.seed, "vl_icl", key="queries", whole=f"of {self.title}")
        return tuple(self._query(i, rows[i]) for i in chosen)

    @cached_property
    def _by_id(self) -> dict[str, Example]:
        return {query.id: query for query in self.queries}

    def pool_key(self, query_id: str) -> str | None:
        if query_id not in self._by_id:
            return None
        operator = str(self._by_id[query_id].secret.get("operator", ""))
        return query_id if self.task in ("open_mi", "cobsat") else operator

    @cached_property
    def _folder(self) -> Path:
        return self._place(self.path)

    @property
    def pool_size(self) -> int:
        return min(len(self.pool(query.id)) for query in self.queries)

    def pool_examples(self, key: str) -> tuple[Example, ...]:
        """The pool of a query (open_mi, cobsat), of an operator, or of all queries."""
        if self.task == "open_mi":
            return tuple(self._named(int(key.rpartition("-")[2])))
        if self.task == "cobsat":
            return tuple(self._with_latent(int(key.rpartition("-")[2])))
        rows = self._read("support.json")
        if self.task == "matching_mi":
            return tuple(e for i, pair in enumerate(rows) for e in self._matched(i, pair))
        return tuple(self._example(f"support-{i:05d}", row, _answer(row, key)) for i, row in enumerate(rows))

    def _query(self, number: int, row: Row) -> Example:
        name = f"{self.task}-{number:05d}"
        if self.task == "open_mi":
            return self._example(name, row, str(row["answer"]), self._classes(number, row))
        if self.task == "matching_mi":
            return self._example(name, row, str(row["answer"]).lower(), ("yes", "no"))
        if self.task == "cobsat":
            return self._described(name, row, images=())
        secret = {"operator": row["operator"]} if "operator" in row else {}
        if missing := [key for key in KEYS if key not in row]:
            raise DataError(
                f"{self.title}: row {number} of query.json has no '{missing[0]}'. A row has {', '.join(KEYS)}."
            )
        return self._example(name, row, str(row["answer"]), secret=secret)

    def _with_latent(self, number: int) -> Sequence[Example]:
        """The support of cobsat with the task and the latent word of a query, as the released code chooses it."""
        query, key = self._read("query.json")[number], _latent_key
        rows = [row for row in self._read("support.json") if key(row) == key(query)]
        name = f"{self.task}-{number:05d}"
        return [self._described(f"{name}-s{i:03d}", row, _image_names(row)) for i, row in enumerate(rows)]

    def _described(self, name: str, row: Row, images: Sequence[str]) -> Example:
        """An example of cobsat whose answer is the latent word and the word of its text."""
        latent, text = _cobsat_words(row)
        siblings = [r for r in self._read("support.json") if (r["task"], r["latent"]) == (row["task"], row["latent"])]
        words = {
            side: sorted({_cobsat_words(r)[i] for r in [*siblings, row]}) for i, side in enumerate(("latent", "text"))
        }
        example = self._example(name, {**row, "image": list(images)}, f"{latent} {text}")
        return replace(example, meta={"words": words}, secret={"latent": latent, "text": text})

    def _classes(self, number: int, row: Row) -> tuple[str, ...]:
        """The query's class and others, in a random order."""
        rng = StreamKey(self.seed, f"{self.task}-{number:05d}").numpy("classes")
        others = shuffled(rng, [name for name in row["classes"] if name != row["answer"]])
        return tuple(shuffled(rng, [row["answer"], *others[: self.ways - 1]]))

    def _named(self, number: int) -> Sequence[Example]:
        """One image of each class for each shot."""
        row = self._read("query.json")[number]
        names = self._classes(number, row)
        images = {name: row["support"][name]["images"] for name in names}
        return [
            self._example(
                f"{self.task}-{number:05d}-s{shot}{k}",
                {"question": NAMING, "image": images[name][shot]},
                name,
                names,
            )
            for shot in range(min(map(len, images.values())))
            for k, name in enumerate(names)
        ]

    def _matched(self, number: int, pair: Row) -> Sequence[Example]:
        name, order = f"support-{number:05d}", ["same", "diff"]
        if not self.official_order:
            order = shuffled(StreamKey(self.seed, name).numpy("order"), order)
        return [
            self._example(f"{name}-{k}", pair[key], str(pair[key]["answer"]).lower(), ("yes", "no"))
            for k, key in enumerate(order)
        ]

    def _example(
        self, name: str, row: Row, answer: str, options: tuple[str, ...] = (), secret: Row | None = None
    ) -> Example:
        return Example(
            id=name,
            images=tuple(Image.from_path(self._folder / image, f"VL-ICL {image}") for image in _image_names(row)),
            question=str(row["question"]),
            answers=(answer,),
            options=options,
            label=answer if options else None,
            secret=secret or {},
        )

    def _read(self, name: str) -> list[dict[str, Any]]:
        return _rows(self._folder / self.task / name)


@lru_cache(maxsize=16)
def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"VL-ICL: there is no {path}. Its data set is ys-zong/VL-ICL on the Hugging Face hub; unpack it, and give "
            "the folder that has a folder for each task."
        ) from error
    except ValueError as error:
        raise DataError(f"VL-ICL: {path} is not valid JSON: {error}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"VL-ICL: {path} is not a list of records.")
    return rows


def _image_names(row: Row) -> list[str]:
    images = row["image"]
    return [images] if isinstance(images, str) else list(images)


def _latent_key(row: Row) -> tuple[Any, ...]:
    """The task of a row of cobsat, which of its two words is latent, and this word."""
    return row["task"], row["latent"], row[row["latent"]]


def _cobsat_words(row: Row) -> tuple[str, str]:
    """The latent word and the other word. `answer` has both, the latent one first; a row without it is its text."""
    answer = row.get("answer")
    if isinstance(answer, list) and len(answer) == 2:
        return str(answer[0]), str(answer[1])
    return str(row[row["latent"]]), str(row["question"])


def _answer(row: Row, operator: str) -> str:
    """The answer. If a sum has one for each operator, that of this operator."""
    answer = row["answer"]
    return str(answer[OPERATORS.index(operator)]) if isinstance(answer, list) and operator else str(answer)
