"""Runs and their samples in a notebook: a table of scores, and prompts with their images."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.report.rendering import render_body
from experiments.report.sample_browser import finite_or_none, image_data_uri, image_path, images_by_owner
from experiments.report.sample_detail import answer_text, arm_text, choose_sample, print_chosen_sample
from experiments.report.sections.scores import scores_section
from experiments.results import Run, RunView
from experiments.results.view_run import view_run
from experiments.stats import as_sequence, format_count, format_share, text_items, text_value
from icl import MAX_IMAGES, THUMBNAIL_SIDE, ICLError, box_html, dim_html, image_tag, rich, table_html, text_html

MAX_SAMPLES = 50_000
"""The largest run whose scores a notebook shows unasked: their computation takes seconds."""

TEXT_WIDTH = 100
"""Columns of a sample where HTML is not shown."""


@dataclass(frozen=True, repr=False)
class SampleView:
    """A stored sample of a run, which a notebook shows with its images. Its text is the text of `icl show`.

    Attributes:
        row: The sample: a row of `Run.samples()`.
        view: The run.
    """

    row: Mapping[str, Any]
    view: RunView

    def _repr_html_(self) -> str:
        return sample_html(self.row, self.view)

    def __repr__(self) -> str:
        # In a kernel, a console of rich would display each line instead of writing it to the file.
        console = rich.console.Console(file=io.StringIO(), width=TEXT_WIDTH, color_system=None, force_jupyter=False)
        print_chosen_sample(self.row, self.view, console)
        return str(console.file.getvalue())  # type: ignore[attr-defined]  # the file is the StringIO above


def find_sample(run: Run, query: str, arm: Mapping[str, str], seed: int | None) -> SampleView:
    """The sample that `icl show RUN sample QUERY --arm ...` prints. Without a query it is an informative one.

    Raises:
        ICLError: As `icl show`.
    """
    view = view_run(run)
    return SampleView(choose_sample(view, query, arm, seed), view)


def run_html(run: Run) -> str:
    """The state of a run, the table of its scores and one sample of it."""
    head = f"<div><b>{text_html(run.path.name)}</b></div>"
    try:
        head += f"<div>{dim_html(repr(run))}</div>"
        if (size := sum(run.info.get("sizes", []))) > MAX_SAMPLES:
            hint = f"{size:,} samples. run.scores() computes the scores, run.sample() shows one sample."
            return box_html(head, dim_html(hint))
        view = view_run(run)
        sample = choose_sample(view, "", {}, None)
        return box_html(head, render_body(scores_section(view)), sample_html(sample, view))
    except ICLError as error:
        return box_html(head, dim_html(error))


def sample_html(row: Mapping[str, Any], view: RunView) -> str:
    """Demonstrations and query with their images, then answer, gold and scores."""
    demos, digests, owners = (as_sequence(row.get(key)) for key in ("demos", "images", "image_of"))
    of_demos, of_query = images_by_owner([str(digest) for digest in digests], owners, len(demos))
    num_images = 0

    def images(names: list[str]) -> str:
        nonlocal num_images
        num_images += len(names)
        if num_images > MAX_IMAGES:
            return dim_html(format_count(len(names), "image"))
        return "".join(
            image_tag(image_data_uri(image_path(view.path, name), THUMBNAIL_SIDE), name[:8]) for name in names
        )

    lines = [
        [str(number + 1), text_html(name), images(of_demos[number]), "", text_html(answer)]
        for number, (name, _, answer) in enumerate(demos)
    ]
    gold_html = f"{dim_html('gold')} {text_html(' / '.join(text_items(row, 'gold')))}"
    lines.append(
        ["query", text_html(row["query"]), images(of_query), text_html(text_value(row, "question")), gold_html]
    )
    numbers = [(name, finite_or_none(row.get(name))) for name in view.sample_metrics]
    scores = "  ".join(f"{name} {format_share(value, 2)}" for name, value in numbers if value is not None)
    what = "failed" if isinstance(row.get("failed"), str) else "answer"
    return box_html(
        f"<div>{dim_html(arm_text(row, view))}, {dim_html('seed')} {row['seed']}</div>",
        table_html(["", "id", "images", "question", "answer"], lines),
        f"<div>{dim_html(what)} <b>{text_html(answer_text(row))}</b> {dim_html(scores)}</div>",
    )
