"""One sample in the terminal: prompt with images, demonstrations, answer, scores, steps, and other arms.

An image is named by the beginning of its digest, which is also the beginning of its file's name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.keys import AXES, DEMONSTRATION_AXES
from experiments.report.sample_browser import finite_or_none, image_path
from experiments.results import ArmAnswers, RunView, describe_invocation, is_unremarkable
from experiments.stats import (
    BASELINE,
    NO_VALUE,
    better_of,
    describe_arm,
    format_count,
    format_share,
    format_signed,
    resolve_setting,
    text_items,
    text_value,
)
from experiments.store import Store, read_invocations
from experiments.terminal.progress import failure_kind
from icl import IMAGE_PLACEHOLDER, ConfigError, DataError, DataFrame, did_you_mean, rich, strip_control_characters
from icl.metrics.machinery.answer_extraction import extract_answer

# The steps of one answer with their branches side by side: top tokens, weights, and divergence from the reference.
#
# The data come from `decoding.engine.trace.serialize_step_traces`. Three branches fit into 80 columns.


END_OF_TEXT = "(end)"
"""The text of the token that ends an answer."""

COLUMN_WIDTH = 25
"""The width of a branch. The terminal's width decides how many are side by side."""


@dataclass(frozen=True)
class BranchStep:
    """One branch at one step, or the combined scores.

    Attributes:
        name: 'reference', 'branch 1' or 'combined'.
        top: (token, probability), the best first.
        entropy: The entropy in nats.
        js_divergence: The Jensen-Shannon divergence from the reference in nats, if it was recorded.
        weight: The weight in the combined scores, if there are weights.
    """

    name: str
    top: tuple[tuple[str, float], ...]
    entropy: float
    js_divergence: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class DecodingStep:
    """One step of an answer.

    Attributes:
        chosen: The chosen token.
        reference: The best token of the reference.
        plausible_tokens: The number of tokens that the mask keeps.
        changed: Whether the chosen token differs from the reference's.
        branches: The branches, then the combined scores.
    """

    chosen: str
    reference: str
    plausible_tokens: int | None
    changed: bool | None
    branches: tuple[BranchStep, ...]


def read_steps(steps: Any, trace: Any) -> list[DecodingStep]:
    """The steps of a sample; empty if none were recorded. trace: its numbers of plausible tokens and changed tokens."""
    if not isinstance(steps, Mapping) or not steps.get("chosen"):
        return []
    numbers = trace if isinstance(trace, Mapping) else {}
    words = [token_text(word) for word in steps["words"]]
    count = len(steps["chosen"])
    weights = steps.get("weights") or [None]
    decoded = []
    for i in range(count):
        tops = [
            tuple((words[place], p) for place, p in zip(*row, strict=True))
            for row in zip(steps["top"][i], steps["p"][i], strict=True)
        ]
        last = len(tops) - 1
        own = weights[i] if len(weights) == count else weights[0]
        divergences = [None, *(steps["js_divergence"][i] if "js_divergence" in steps else ()), None]
        branches = tuple(
            BranchStep(
                _name(b, last),
                top,
                steps["entropy"][i][b],
                divergences[b] if 0 < b < last else None,
                own[b] if own and b < last else None,
            )
            for b, top in enumerate(tops)
        )
        plausible, changed = (_at(numbers.get(name), i) for name in ("plausible_tokens", "changed"))
        decoded.append(
            DecodingStep(
                words[steps["chosen"][i]],
                tops[0][0][0] if tops[0] else "",
                None if plausible is None else int(plausible),
                None if changed is None else bool(changed),
                branches,
            )
        )
    return decoded


def token_text(word: str) -> str:
    """A token's text on one line, without control characters and with visible spaces."""
    if not word:
        return END_OF_TEXT
    plain = strip_control_characters(word).replace("\n", "⏎")
    return plain if plain.strip() else "␣" * len(plain)


def print_steps(steps: Sequence[DecodingStep], console: "rich.console.Console") -> None:
    """Prints a block per step: the chosen token, then the branches in columns."""
    console.print()
    for number, step in enumerate(steps):
        console.print(_head(number, step), soft_wrap=True)
        for line in _columns(step.branches, console.width):
            console.print(line, soft_wrap=True)
        console.print()
    if len(steps[0].branches) > 2:
        note = "×: weight in the combined scores. JS: Jensen-Shannon divergence from the reference, in nats."
        console.print(note, style="dim", highlight=False)


def _head(number: int, step: DecodingStep) -> "rich.text.Text":
    head = rich.text.Text(f"step {number}  ", "dim").append(step.chosen, "bold")
    if step.changed:
        head.append(f"  (the reference: {step.reference})", "yellow")
    if step.plausible_tokens is not None:
        verb = "survives" if step.plausible_tokens == 1 else "survive"
        head.append(f"  {format_count(step.plausible_tokens, 'token')} {verb}", "dim")
    return head


def _columns(branches: Sequence[BranchStep], width: int) -> "Iterator[rich.text.Text]":
    columns = max(1, (width - 2) // COLUMN_WIDTH)
    for start in range(0, len(branches), columns):
        part = [_lines(one) for one in branches[start : start + columns]]
        for row in range(max(map(len, part))):
            line = "".join((lines[row] if row < len(lines) else "").ljust(COLUMN_WIDTH) for lines in part)
            yield rich.text.Text(f"  {line.rstrip()}", "dim" if row in (0, max(map(len, part)) - 1) else "")


def _lines(one: BranchStep) -> list[str]:
    """The lines of one column: name and weight, a line per token, entropy and divergence."""
    weight = "" if one.weight is None else f" ×{format_signed(one.weight, 2).lstrip('+')}"
    room = COLUMN_WIDTH - 9
    tokens = [f"{_cut(word, room)} {format_share(p):>5}" for word, p in one.top]
    divergence = "" if one.js_divergence is None else f" JS {format_share(one.js_divergence)}"
    return [f"{one.name}{weight}", *tokens, f"entropy {format_share(one.entropy, 2)}{divergence}"]


def _cut(word: str, room: int) -> str:
    return (word if len(word) <= room else f"{word[: room - 1]}…").ljust(room)


def _name(branch: int, last: int) -> str:
    return "reference" if branch == 0 else "combined" if branch == last else f"branch {branch}"


def _at(values: Any, step: int) -> float | None:
    return values[step] if isinstance(values, list | tuple) and step < len(values) else None


DIGEST_LENGTH = 8
"""The number of letters of an image's short name; longer if two names would be equal."""

MAX_EXAMPLE_IDS = 3
"""The number of queries that are named as examples."""

SETTING_KEYS = (*AXES, BASELINE)
"""The allowed keys of a setting."""

ANSWER_WIDTH = 24
"""The least width of the answers of other arms. With longer labels, only differences are printed."""

MAX_LISTED = 40
"""The largest number of other arms, or of failed samples, in a list."""


def parse_settings(words: Sequence[str], what: str) -> dict[str, str]:
    """['decoding=vcd', 'shots=4,retriever=knn'] as a setting. Raises ConfigError for a word without '='."""
    settings = {}
    for word in (part for several in words for part in _split_settings(several)):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{what}: '{word}' is not of the form axis=value, such as decoding=greedy.")
        settings[key.strip()] = value.strip()
    return settings


def _split_settings(word: str) -> Iterator[str]:
    """Splits 'shots=4,retriever=knn' at commas before an axis; commas within a label are part of it."""
    begin = depth = 0
    for i, letter in enumerate(word):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0 and word[i + 1 :].lstrip().partition("=")[0].rstrip() in SETTING_KEYS:
            yield word[begin:i]
            begin = i + 1
    yield word[begin:]


def find_samples(frame: DataFrame, query: str) -> DataFrame:
    """The samples of a query, given its id, or the beginning of the id or of its image's digest.

    Raises:
        DataError: No query or several queries fit. The message has the nearest ids.
    """
    ids = list(dict.fromkeys(map(str, frame["query"])))
    near = [query] if query in ids else [name for name in ids if name.startswith(query)]
    near = near or _with_image(frame, query)
    if len(near) == 1:
        return frame[frame["query"] == near[0]]
    if near:
        more = f" and {len(near) - 6} more" if len(near) > 6 else ""
        raise DataError(
            f"'{query}' is the prefix of {len(near)} query IDs: {', '.join(near[:6])}{more}. Write a longer prefix."
        )
    named = ", ".join(ids[:MAX_EXAMPLE_IDS])
    raise DataError(f"the run has no query '{query}'.{did_you_mean(query, ids)} IDs look like {named}.")


def _with_image(frame: DataFrame, digest: str) -> list[str]:
    """The queries that have an image of their own whose digest begins so."""
    if len(digest) < 4 or not {"images", "image_of"} <= set(frame) or set(digest) - set("0123456789abcdef"):
        return []
    images_of_rows = zip(frame["query"], frame["images"], frame["image_of"], strict=True)
    return list(
        dict.fromkeys(
            str(query)
            for query, images, owners in images_of_rows
            if isinstance(images, list | tuple) and isinstance(owners, list | tuple)
            for image, owner in zip(images, owners, strict=False)
            if owner < 0 and str(image).startswith(digest)
        )
    )


def choose_informative_query(view: RunView, arm: Mapping[str, str], seed: int | None) -> str:
    """A query to start with: the first that the arm does not answer correctly.

    The arm is the one with most shots, else the reference arm. If no metric judges single answers, it is the first
    query.
    """
    columns = {*view.axes, *view.to, *filter(None, [view.judge]), "seed", "query"}
    every: list[Any] = view.frame[[name for name in view.frame if name in columns]].to_dict("records")
    setting = resolve_setting(view.frame, arm, view.axes, "--arm")
    fits = [row for row in every if all(row[axis] == value for axis, value in setting.items())]
    rows: list[Any] = [row for row in fits if seed is None or row["seed"] == seed] or every
    preferred = max(_preference(row, view) for row in rows)
    best = [row for row in rows if _preference(row, view) == preferred]
    good, _ = _ends(view)
    return str(next((row for row in best if view.judge and row.get(view.judge) != good), best[0])["query"])


def choose_sample(view: RunView, query: str, arm: Mapping[str, str], seed: int | None) -> dict[str, Any]:
    """The sample that fits best. If several arms fit, it is the one with most shots, the
    reference's setting, and the first seed.

    Args:
        view: The run.
        query: An id, or the beginning of an id or of an image's digest; '' for an informative query.
        arm: The values of some axes.
        seed: The seed, by default the first.

    Raises:
        DataError: No query or sample fits.
        ConfigError: The run has no such axis or value.
    """
    query = query or choose_informative_query(view, arm, seed)
    samples = find_samples(view.frame, query)
    for axis, value in resolve_setting(view.frame, arm, view.axes, "--arm").items():
        samples = samples[samples[axis] == value]
    if seed is not None:
        samples = samples[samples["seed"] == seed]
    if not len(samples):
        parts = [*(f"{k}={v}" for k, v in arm.items()), *([f"seed {seed}"] if seed is not None else [])]
        raise DataError(f"query '{query}' has no sample with {', '.join(parts)}.")
    rows: list[Any] = samples.to_dict("records")
    chosen: dict[str, Any] = max(rows, key=lambda row: _preference(row, view))
    return chosen


def print_sample(
    view: RunView,
    query: str,
    arm: Mapping[str, str],
    seed: int | None,
    console: "rich.console.Console",
    *,
    steps: bool = False,
) -> None:
    """Prints the sample of `choose_sample`, then the answers of the other arms to the same query."""
    print_chosen_sample(choose_sample(view, query, arm, seed), view, console, steps=steps)


def print_chosen_sample(
    row: Mapping[str, Any], view: RunView, console: "rich.console.Console", *, steps: bool = False
) -> None:
    """Prints a sample, then the answers of the other arms to the same query. steps: whether to print its trace."""
    _print_sample(row, view, console)
    if view.mixed_versions:
        _print_invocation(row, view, console)
    if recorded_steps := read_steps(row.get("steps"), row.get("trace")):
        print_steps(recorded_steps, console)
    if steps:
        _print_trace(row.get("trace"), console)
    same = view.frame[(view.frame["query"] == row["query"]) & (view.frame["task"] == row["task"])]
    others: list[Any] = same[same["seed"] == row["seed"]].to_dict("records")
    _print_others(row, others, view, console)


def print_failures(view: RunView, console: "rich.console.Console") -> None:
    """Prints the failed samples, each with its reason."""
    if "failed" not in view.frame or not view.failed:
        console.print("no sample failed")
        return
    failed: list[Any] = view.frame[view.frame["failed"].notna()].to_dict("records")
    kinds: dict[str, list[Any]] = {}
    for row in failed:
        kinds.setdefault(failure_kind(str(row["failed"])), []).append(row)
    for row, *same in list(kinds.values())[:MAX_LISTED]:
        console.print(
            f"{printable_text(row['query'])}  seed {row['seed']}  {arm_text(row, view)}", style="bold", markup=False
        )
        console.print(f"  {printable_text(row['failed'])}", markup=False, highlight=False, soft_wrap=True)
        if same:
            queries = ", ".join(list(dict.fromkeys(printable_text(other["query"]) for other in same))[:MAX_EXAMPLE_IDS])
            console.print(f"  and {len(same):,} more of this kind, such as {queries}", style="dim", markup=False)
    if len(kinds) > MAX_LISTED:
        console.print(f"and {len(kinds) - MAX_LISTED:,} more kinds", style="dim")


def printable_text(text: object) -> str:
    """The text without control characters, so that a model's output cannot control the terminal."""
    return strip_control_characters(str(text))


def short_digests(digests: Sequence[str]) -> dict[str, str]:
    """The beginning of each digest, long enough to be unique."""
    size = next(n for n in range(DIGEST_LENGTH, 65) if len({d[:n] for d in digests}) == len({*digests}) or n == 64)
    return {digest: digest[:size] for digest in digests}


def _preference(row: Mapping[str, Any], view: RunView) -> tuple[Any, ...]:
    return row.get("shots", 0), all(row[k] == v for k, v in view.to.items()), -row["seed"]


def _print_sample(row: Mapping[str, Any], view: RunView, console: "rich.console.Console") -> None:
    console.print(
        rich.text.Text(f"{printable_text(row['query'])}", "bold").append(
            f"  {arm_text(row, view)}, seed {row['seed']}", "dim"
        )
    )
    console.print()
    console.print(_prompt(row, view.path), soft_wrap=True)
    if line := _where_images_are(row, view.path):
        console.print(rich.text.Text(line, "dim"), soft_wrap=True)
    console.print()
    demos = row.get("demos")
    if isinstance(demos, list | tuple) and demos:
        console.print("demonstrations, in the order of the prompt", style="dim")
        answers = [printable_text(answer) for _, _, answer in demos]
        width = min(max(map(len, answers)), 24)
        scored = any(score for _, score, _ in demos)  # a retriever without a similarity gives 0
        for i, ((name, score, _), answer) in enumerate(zip(demos, answers, strict=True)):
            near = f"  similarity {score:.3f}" if scored else ""
            console.print(
                rich.text.Text(f"{i + 1:>3}. {answer:<{width}}").append(f"   {printable_text(name)}{near}", "dim")
            )
    if isinstance(row.get("failed"), str):
        console.print(rich.text.Text("failed  ", "bold red").append(answer_text(row)))
        return
    right = row.get(view.judge) if view.judge else None
    good, bad = _ends(view)
    look = "default" if right is None else "green" if right == good else "red" if right == bad else "default"
    console.print(rich.text.Text("answer  ", "dim").append(answer_text(row), f"bold {look}"))
    if line := describe_sample(row, view):
        console.print(rich.text.Text("form    ", "dim").append(line))
    console.print(rich.text.Text("gold    ", "dim").append(" / ".join(map(printable_text, text_items(row, "gold")))))
    scores = _scores(row, view.sample_metrics) or "(only run-level metrics)"
    console.print(rich.text.Text("scores  ", "dim").append(scores))
    if whole := [name for name in view.metrics if name not in view.sample_metrics]:
        words = "a run-level metric" if len(whole) == 1 else "run-level metrics"
        console.print(rich.text.Text(f"        {', '.join(whole)}: {words}, without a score per sample", "dim"))
    if view.of_samples and (votes := _scores(row, view.baselines)):
        words = f"  (answers of the same demonstrations without a model, by {view.metric})"
        console.print(rich.text.Text("baselines  ", "dim").append(votes, "default").append(words, "dim"))
    if isinstance(options := row.get("option_scores"), Mapping) and options:
        best = sorted(options.items(), key=lambda item: -item[1])
        console.print(
            rich.text.Text("options ", "dim").append("  ".join(f"{printable_text(o)} {v:.3f}" for o, v in best))
        )


def _print_invocation(row: Mapping[str, Any], view: RunView, console: "rich.console.Console") -> None:
    """Prints what computed a sample, and how the processes of the run differ."""
    number = finite_or_none(row.get("invocation"))
    record = read_invocations(Store(view.path)).get(int(number)) if number is not None else None
    line = f"computed by process {number:.0f}: {describe_invocation(record)}\n" if record else ""
    console.print(f"{line}{view.mixed_versions}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _scores(row: Mapping[str, Any], names: Iterable[str]) -> str:
    scores = [(name, finite_or_none(row.get(name))) for name in names]
    return "  ".join(f"{name} {format_share(value, 2)}" for name, value in scores if value is not None)


def _ends(view: RunView) -> tuple[int | None, int | None]:
    """The scores of a right and of a wrong answer, by the metric that judges single answers."""
    better = better_of(view.scores, view.judge) if view.judge else "neither"
    return {"higher": (1, 0), "lower": (0, 1), "neither": (None, None)}[better]


def _print_trace(trace: Any, console: "rich.console.Console") -> None:
    """Prints the trace of the steps: a row per step, a column per number."""
    if not isinstance(trace, Mapping) or not trace:
        console.print("\nno steps were recorded for this answer", style="dim")
        return
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", justify="right")
    for name in trace:
        table.add_column(printable_text(name), justify="right")
    for step in range(max(map(len, trace.values()))):
        table.add_row(str(step), *(f"{v[step]:.4g}" if step < len(v) else "" for v in trace.values()))
    console.print()
    console.print(table)


def _print_others(
    chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], view: RunView, console: "rich.console.Console"
) -> None:
    others = [row for row in rows if row["cell"] != chosen["cell"]]
    if not others:
        return
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    listed = others[:MAX_LISTED]
    labels = [arm_text(row, view) for row in listed]
    wide = max(map(len, labels)) > console.width - ANSWER_WIDTH
    for row, label in zip(listed, [_unlike(row, chosen, view) for row in listed] if wide else labels, strict=True):
        right = row.get(view.judge) if view.judge else None
        mark, look = ("✓", "green") if right == 1 else ("✗", "red") if right == 0 else ("·", "default")
        table.add_row(rich.text.Text(mark, look), rich.text.Text(label), rich.text.Text(answer_text(row)))
    console.print(f"\nthe same query under the other arms{', by their differences' if wide else ''}", style="dim")
    console.print(table)
    if len(others) > MAX_LISTED:
        console.print(f"  and {len(others) - MAX_LISTED:,} more (--arm axis=value)", style="dim")


def _prompt(row: Mapping[str, Any], folder: Path) -> "rich.text.Text":
    """The prompt's text. Images have short names, which are links in terminals that support them."""
    digests = _digests(row)
    names = short_digests(digests)
    pieces = printable_text(text_value(row, "prompt")).split(IMAGE_PLACEHOLDER)
    if len(pieces) != len(digests) + 1:  # the text itself contains the placeholder
        pieces = [f"{IMAGE_PLACEHOLDER.join(pieces)}\n", *([""] * len(digests))]
    text = rich.text.Text(pieces[0])
    for digest, piece in zip(digests, pieces[1:], strict=True):
        path = image_path(folder, digest)
        text.append(f"[{names[digest]}]", "" if path is None else f"link {path.resolve().as_uri()}")
        text.append(f" {piece}" if piece[:1].strip() else piece)
    return text


def _where_images_are(row: Mapping[str, Any], folder: Path) -> str:
    digests = _digests(row)
    stored = [digest for digest in digests if image_path(folder, digest) is not None]
    if not digests:
        return ""
    if not stored:
        return "(the run stored none of these images)"
    name = short_digests(digests)[stored[-1]]
    some = "" if len(stored) == len(digests) else f"; {len(stored)} of {len(digests)} are stored"
    return f"[{name}] is {folder / 'images' / name}*.png{some}"


def _digests(row: Mapping[str, Any]) -> list[str]:
    digests = row.get("images")
    return list(map(str, digests)) if isinstance(digests, list | tuple) else []


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer or the reason of a failure; '(nothing)' for an empty answer."""
    words = [row[key] for key in ("failed", "output") if isinstance(row.get(key), str) and row[key]]
    return printable_text(words[0]) if words else "(nothing)"


def _unlike(row: Mapping[str, Any], chosen: Mapping[str, Any], view: RunView) -> str:
    """The axes in which an arm differs from the printed one: 'shots 0', 'composer interleaved'."""
    differs = [axis for axis in ("shots", *view.row_axes) if axis in view.axes and row[axis] != chosen[axis]]
    free = DEMONSTRATION_AXES if row.get("shots") == 0 else ()
    return printable_text(
        ", ".join(f"{axis} {row[axis]}" for axis in differs if axis not in free or row[axis] != NO_VALUE)
    )


def arm_text(row: Mapping[str, Any], view: RunView) -> str:
    """The arm of a sample in words, by the axes that vary."""
    label_axes = [axis for axis in ("shots", *view.row_axes) if axis in view.axes and row[axis] != NO_VALUE]
    return printable_text(describe_arm({axis: row[axis] for axis in label_axes}))


THINKING_ENDS = {"cut": "thinking cut at max_thinking_tokens", "open": "thinking never closed"}
ANSWER_ENDS = {"length": "cut at max_new_tokens"}
"""What a sample's `thinking` and `finish` mean, where that is remarkable."""


def describe_sample(row: Mapping[str, Any], view: RunView) -> str:
    """How an output writes its answer, what was cut, and the answers of its arm. '' if the run has nothing remarkable.

    'labeled; its arm: strict .000, lenient 1.000, 100 % labeled'
    """
    if is_unremarkable(view.arm_answers):
        return ""
    form = extract_answer(text_value(row, "output")).form.replace("none", "no answer")
    ends = THINKING_ENDS.get(text_value(row, "thinking")), ANSWER_ENDS.get(text_value(row, "finish"))
    own = ", ".join(filter(None, [form, *ends]))
    arms = [one for one in view.arm_answers if all(row[axis] == value for axis, value in one.arm.items())]
    return "; its arm: ".join([own, *map(_describe_arm, arms)])


def _describe_arm(one: ArmAnswers) -> str:
    scores = [("strict", one.strict), ("lenient", one.lenient)]
    shares = [
        ("unread", one.unread),
        ("no answer", one.unparsed),
        ("answer cut", one.cut_answer),
        ("thinking cut", one.cut_thinking),
    ]
    numbers = [pair for pair in scores if pair[1] == pair[1]] + [pair for pair in shares if pair[1]]
    return ", ".join([*(f"{name} {format_share(value)}" for name, value in numbers), one.wrapping])
