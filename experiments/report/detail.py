"""One sample in the terminal: its prompt with pictures as paths, demonstrations, answer, scores, steps, other arms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report.browser import number_of
from experiments.report.steps import print_steps, steps_of
from experiments.report.view import View
from experiments.stats.arms import NONE, checked_setting, told
from experiments.stats.wording import share
from icl.errors import ConfigError, DataError, did_you_mean, printable
from icl.types import PICTURE_MARK

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

LISTED = 40
"""Other arms, or failed samples, that are listed."""


def settings(words: Sequence[str], what: str) -> dict[str, str]:
    """['decoding=vcd', 'shots=4'] -> a setting. Raises ConfigError for a word without '='."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{what}: '{word}' is not of the form axis=value, such as decoding=greedy.")
        found[key.strip()] = value.strip()
    return found


def find(frame: "DataFrame", query: str) -> "DataFrame":
    """The samples of a query: by id, or by the beginning of one. Raises DataError with the nearest ids."""
    ids = list(dict.fromkeys(map(str, frame["query"])))
    near = [query] if query in ids else [name for name in ids if name.startswith(query)]
    if len(near) == 1:
        return frame[frame["query"] == near[0]]
    if near:
        more = f" and {len(near) - 6} more" if len(near) > 6 else ""
        raise DataError(f"'{query}' begins {len(near)} queries: {', '.join(near[:6])}{more}. Write more of the id.")
    raise DataError(f"the run has no query '{query}'.{did_you_mean(query, ids)} Ids look like {', '.join(ids[:3])}.")


def show_sample(
    view: View, query: str, arm: Mapping[str, str], seed: int | None, console: "Console", *, steps: bool = False
) -> None:
    """Prints the one sample that fits best, then what the other arms said to the same query.

    Where the arm leaves a choice: most shots, the reference's setting, the first seed. Raises DataError, ConfigError.
    """
    samples = find(view.frame, query)
    setting = checked_setting(view.frame, arm, view.axes, "--arm")
    for axis, value in setting.items():
        samples = samples[samples[axis] == value]
    if seed is not None:
        samples = samples[samples["seed"] == seed]
    if not len(samples):
        wanted = [*(f"{k}={v}" for k, v in arm.items()), *([f"seed {seed}"] if seed is not None else [])]
        raise DataError(f"query '{query}' has no sample with {', '.join(wanted)}.")
    rows: list[Any] = samples.to_dict("records")
    chosen = max(rows, key=lambda row: _preference(row, view))
    _print_sample(chosen, view, console)
    if kept := steps_of(chosen.get("steps"), chosen.get("trace")):
        print_steps(kept, console)
    if steps:
        _print_trace(chosen.get("trace"), console)
    same = view.frame[(view.frame["query"] == chosen["query"]) & (view.frame["task"] == chosen["task"])]
    others: list[Any] = same[same["seed"] == chosen["seed"]].to_dict("records")
    _print_others(chosen, [row for row in others if row is not chosen], view, console)


def show_failed(view: View, console: "Console") -> None:
    """Prints the samples that have no answer, each with its reason."""
    if "failed" not in view.frame or not view.failed:
        console.print("no sample failed")
        return
    failed: list[Any] = view.frame[view.frame["failed"].notna()].to_dict("records")
    for row in failed[:LISTED]:
        console.print(f"{clean(row['query'])}  seed {row['seed']}  {_arm(row, view)}", style="bold", markup=False)
        console.print(f"  {clean(row['failed'])}", markup=False, highlight=False, soft_wrap=True)
    if len(failed) > LISTED:
        console.print(f"and {len(failed) - LISTED:,} more", style="dim")


def clean(text: object) -> str:
    """Without control characters: a model's output must not steer a terminal."""
    return printable(str(text))


def picture_path(folder: Path, digest: str) -> str:
    """Where the run keeps the picture, or its digest where it does not."""
    path = folder / "pictures" / f"{digest}.png"
    return str(path) if path.is_file() else f"picture {digest[:12]} (not kept)"


def _preference(row: Mapping[str, Any], view: View) -> tuple[Any, ...]:
    return row.get("shots", 0), all(row[k] == v for k, v in view.to.items()), -row["seed"]


def _print_sample(row: Mapping[str, Any], view: View, console: "Console") -> None:
    from rich.text import Text

    console.print(Text(f"{clean(row['query'])}", "bold").append(f"  {_arm(row, view)}, seed {row['seed']}", "dim"))
    console.print()
    console.print(Text(_prompt(row, view.path)), soft_wrap=True)
    console.print()
    demos = row.get("demos")
    if isinstance(demos, list | tuple) and demos:
        console.print("demonstrations, in the order of the prompt", style="dim")
        for i, (name, score, answer) in enumerate(demos):
            console.print(
                Text(f"  {i + 1}. {clean(answer)}").append(f"   {clean(name)}  similarity {score:.3f}", "dim")
            )
    if isinstance(row.get("failed"), str):
        console.print(Text("failed  ", "bold red").append(_said(row)))
        return
    right = row.get(view.metric)
    good, bad = {"higher": (1, 0), "lower": (0, 1), "neither": (None, None)}[view.better]
    look = "default" if right is None else "green" if right == good else "red" if right == bad else "default"
    console.print(Text("answer  ", "dim").append(_said(row), f"bold {look}"))
    console.print(Text("gold    ", "dim").append(" / ".join(map(clean, row.get("gold") or ()))))
    scores = [(name, number_of(row.get(name))) for name in (*view.metrics, *view.baselines)]
    told_scores = "  ".join(f"{name} {share(value, 2)}" for name, value in scores if value is not None)
    console.print(Text("scores  ", "dim").append(told_scores))
    if isinstance(options := row.get("option_scores"), Mapping) and options:
        best = sorted(options.items(), key=lambda item: -item[1])
        console.print(Text("options ", "dim").append("  ".join(f"{clean(o)} {v:.3f}" for o, v in best)))


def _print_trace(trace: Any, console: "Console") -> None:
    """What the strategy's steps left behind: a row a step, a column a number."""
    from rich.table import Table

    if not isinstance(trace, Mapping) or not trace:
        console.print("\nthis answer has no record of its steps", style="dim")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", justify="right")
    for name in trace:
        table.add_column(clean(name), justify="right")
    for step in range(max(map(len, trace.values()))):
        table.add_row(str(step), *(f"{v[step]:.4g}" if step < len(v) else "" for v in trace.values()))
    console.print()
    console.print(table)


def _print_others(chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], view: View, console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    others = [row for row in rows if row["cell"] != chosen["cell"]]
    if not others:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    for row in others[:LISTED]:
        right = row.get(view.metric)
        mark, look = ("✓", "green") if right == 1 else ("✗", "red") if right == 0 else ("·", "default")
        table.add_row(Text(mark, look), Text(_arm(row, view)), Text(_said(row)))
    console.print("\nthe same query under the other arms", style="dim")
    console.print(table)
    if len(others) > LISTED:
        console.print(f"  and {len(others) - LISTED:,} more (--arm axis=value)", style="dim")


def _prompt(row: Mapping[str, Any], folder: Path) -> str:
    """The prompt's text; each picture as the path of its file, where the text has as many marks as pictures."""
    text = row["prompt"] if isinstance(row.get("prompt"), str) else ""
    digests = row.get("pictures")
    pictures = [picture_path(folder, str(d)) for d in digests] if isinstance(digests, list | tuple) else []
    pieces = clean(text).split(PICTURE_MARK)
    if len(pieces) != len(pictures) + 1:
        return "\n".join([clean(text), *pictures])
    return pieces[0] + "".join(f"[{p}]{piece}" for p, piece in zip(pictures, pieces[1:], strict=True))


def _said(row: Mapping[str, Any]) -> str:
    """The answer, or why there is none. An empty answer is told as such; a frame has NaN for it."""
    words = [row[key] for key in ("failed", "output") if isinstance(row.get(key), str) and row[key]]
    return clean(words[0]) if words else "(nothing)"


def _arm(row: Mapping[str, Any], view: View) -> str:
    shown = [axis for axis in ("shots", *view.row_axes) if axis in view.axes and row[axis] != NONE]
    return clean(told({axis: row[axis] for axis in shown}))
