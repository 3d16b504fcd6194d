"""The samples in the report: some queries per task under all arms, each prompt and each image once.

The arms disagree most on one half of the queries; the other half is random (with a fixed seed). Shares are
in the tables, because this selection is not representative.
"""

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.results.run_view import RunView
from experiments.stats import as_mapping, as_sequence, better_of, text_items, text_value, to_records
from icl import IMAGE_PLACEHOLDER, PIL, DataFrame, decode_image, nested_choice

QUERIES_PER_TASK = 24
"""The number of queries per task in the page."""
MAX_IMAGE_SIDE = 320
"""The longer side of an image in pixels; larger images are reduced."""
IMAGE_BUDGET = 24 * 2**20
"""The bytes of images in the page. Other images are named by their digest."""
STEPS_BUDGET = 8 * 2**20
"""The characters of steps in the page. Further samples have no steps."""

FIELDS = (
    "query", "seed", "prompt", "demos", "images", "image_of", "question", "gold", "output", "option_scores", "meta",
    "dropped", "finish", "thinking", "failed", "steps",
)  # fmt: skip
"""Columns that `_sample`, `_context` and `_steps` read, besides axes, metrics and baselines, and `trace` with steps."""


@dataclass
class BrowserData:
    """The data of the page's script, as JSON. Arms, contexts and images are stored once, and samples refer to them."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    arms: dict[tuple[Any, ...], int] = field(default_factory=dict)
    contexts: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, str | None] = field(default_factory=dict)
    query_counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def json(self, view: RunView) -> dict[str, Any]:
        content: dict[str, Any] = {"samples": coded_columns(self.samples)}
        content |= {"contexts": self.contexts, "images": self.images}
        content["arms"] = [list(arm) for arm in self.arms]
        columns = {"axes": list(view.axes), "baselines": list(view.baselines), "by": list(view.by)}
        judge = view.judge or ""
        return {**content, **columns, "metric": judge, "better": better_of(view.scores, judge) if judge else "neither"}


def coded_columns(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The samples by column, each value once. A browser reads this several times as fast as an object per sample.

    Returns:
        `size`, and `columns`: field -> [its distinct values, for each sample the place of its value; -1 without one].
    """
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values: list[Any] = []
        places: dict[Any, int] = {}
        codes: list[int] = []
        for sample in samples:
            if name not in sample:
                codes.append(-1)
                continue
            value = sample[name]
            key = (type(value), value) if isinstance(value, str | int | None) else repr(value)
            if key not in places:
                places[key] = len(values)
                values.append(value)
            codes.append(places[key])
        columns[name] = [values, codes]
    return {"size": len(samples), "columns": columns}


def collect_samples(view: RunView, per_cell: int = QUERIES_PER_TASK, budget: int = IMAGE_BUDGET) -> BrowserData:
    """The chosen samples of a run with their prompts and images."""
    from experiments.results.lazy_column import load_details

    shelf = BrowserData()
    contexts: dict[str, int] = {}
    read = {*FIELDS, *(("trace",) if "steps" in view.frame else ()), *view.axes, *view.metrics, *view.baselines}
    columns = [name for name in view.frame if name in read]
    for task in view.tasks:
        metric, of_task = view.judge or view.metric, view.frame["task"] == task
        scores = view.frame.loc[of_task, ["query", metric]]
        chosen = choose_queries(scores, metric, per_cell)
        shelf.query_counts[task] = (len(chosen), int(scores["query"].nunique()))
        place = {query: i for i, query in enumerate(chosen)}
        rows = to_records(load_details(view.frame.loc[of_task & view.frame["query"].isin(chosen), columns]))
        for row in sorted(rows, key=lambda row: place[row["query"]]):
            shelf.samples.append(_sample(row, view, shelf, _context(row, contexts, shelf)))
    _keep_steps(shelf.samples)
    left = budget
    for digest in dict.fromkeys(d for c in shelf.contexts for d in c["images"]):
        uri = image_data_uri(image_path(view.path, digest))
        fits = uri is not None and len(uri) <= left
        shelf.images[digest] = uri if fits else None
        left -= len(uri) if uri is not None and fits else 0
    return shelf


def choose_queries(frame: DataFrame, metric: str, limit: int) -> list[str]:
    """At most `limit` queries of a task, in the order of the run."""
    order = list(dict.fromkeys(frame["query"]))
    if len(order) <= limit:
        return order
    spread = frame.groupby("query")[metric].std(ddof=0).fillna(0.0)
    place = {query: i for i, query in enumerate(order)}
    first = sorted(order, key=lambda q: (-float(spread.get(q, 0.0)), place[q]))[: (limit + 1) // 2]
    rest = [query for query in order if query not in set(first)]
    places = nested_choice(rest, limit - len(first), 0, "browser")
    return sorted([*first, *(rest[i] for i in places)], key=place.__getitem__)


def image_path(folder: Path, digest: str) -> Path | None:
    """The file of an image in a run directory, or None if it is missing, a link or a pipe.

    Of a digest that is a path, only the last part counts.
    """
    path = folder / "images" / Path(f"{digest}.png").name
    is_file = os.path.isfile(path) and not os.path.islink(path)  # unlike those of `Path`, no error for a long name
    return path if is_file else None


def image_data_uri(path: Path | None, side: int = MAX_IMAGE_SIDE) -> str | None:
    """The image as a data URI, reduced if it is large. None without a file, and for one that is unreadable."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
        with decode_image(data) as image:
            small, is_plain = max(image.size) <= side, image.format == "PNG" and image.mode == "RGB"
            rgb = image.convert("RGB")
    except (OSError, ValueError, PIL.Image.DecompressionBombError):
        return None
    if not (small and is_plain):  # a small PNG file is not encoded again
        rgb.thumbnail((side, side))
        buffer = io.BytesIO()
        rgb.save(buffer, *(("PNG",) if small else ("JPEG",)), **({"optimize": True} if small else {"quality": 82}))
        data = buffer.getvalue()
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(data).decode()}"


def images_by_owner(images: Sequence[str], owners: Sequence[int], demos: int) -> tuple[list[list[str]], list[str]]:
    """(images of each demonstration, images of the query). owners: `Sample.image_of`; may be empty."""
    each: list[list[str]] = [[] for _ in range(demos)]
    own: list[str] = []
    for image, owner in zip(images, owners, strict=False):
        (own if owner < 0 else each[owner]).append(image)
    return each, own


def _keep_steps(samples: Sequence[dict[str, Any]]) -> None:
    """Removes the steps of the samples after which the budget is used up."""
    budget = STEPS_BUDGET
    for sample in samples:
        budget -= len(json.dumps(sample.get("steps", "")))
        if budget < 0:
            sample.pop("steps", None)


def _context(row: Mapping[str, Any], numbers: dict[str, int], shelf: BrowserData) -> int:
    demos = [list(demo) for demo in as_sequence(row.get("demos"))]
    images = text_items(row, "images")
    prompt = text_value(row, "prompt")
    key = repr((prompt, demos, images))
    if key not in numbers:
        demo_images, own = images_by_owner(images, as_sequence(row.get("image_of")), len(demos))
        numbers[key] = len(shelf.contexts)
        aligned = prompt.count(IMAGE_PLACEHOLDER) == len(images)
        shelf.contexts.append(
            {
                "prompt": prompt.split(IMAGE_PLACEHOLDER) if aligned else [prompt],
                "images": images,
                "demos": [[*demo, where] for demo, where in zip(demos, demo_images, strict=True)],
                "query": own,
                "question": text_value(row, "question"),
            }
        )
    return numbers[key]


def _sample(row: Mapping[str, Any], view: RunView, shelf: BrowserData, context: int) -> dict[str, Any]:
    arm = tuple(row[axis] for axis in view.axes)
    fields = {
        "query": str(row["query"]),
        "seed": int(row["seed"]),
        "arm": shelf.arms.setdefault(arm, len(shelf.arms)),
        "context": context,
        "gold": list(text_items(row, "gold")),
        "output": text_value(row, "output"),
        "score": finite_or_none(row.get(view.judge)) if view.judge else None,
        "scores": {m: finite_or_none(row.get(m)) for m in view.sample_metrics},
        "baselines": {b: finite_or_none(row.get(b)) for b in view.baselines} if view.of_samples else {},
        "options": {k: finite_or_none(v) for k, v in as_mapping(row.get("option_scores")).items()},
        "meta": {str(k): v for k, v in as_mapping(row.get("meta")).items()},
        "dropped": int(finite_or_none(row.get("dropped")) or 0),
        "finish": text_value(row, "finish"),
        "thinking": text_value(row, "thinking"),
        "failed": row["failed"] if isinstance(row.get("failed"), str) else None,
        "steps": _steps(row),
    }
    return {key: value for key, value in fields.items() if value not in (None, {}, [], "") or key == "score"}


def _steps(row: Mapping[str, Any]) -> dict[str, Any]:
    """The top tokens of each branch at every step, with numbers of the trace. Empty if they were not recorded."""
    steps, trace = as_mapping(row.get("steps")), as_mapping(row.get("trace"))
    if not steps:
        return {}
    return {**steps, **{name: list(as_sequence(trace.get(name))) for name in ("plausible_tokens", "changed")}}


def finite_or_none(value: Any) -> float | None:
    """The number, or None if it is missing."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
