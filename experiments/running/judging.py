"""Verdicts of judge models on stored answers, and the controls of each judge.

The judge answers when all samples are finished, so a judge that fails costs no sample: the next `icl run` asks for the
verdicts that are missing. Answers that are equal are judged once, whichever arms and seeds gave them.

Controls, on up to `CONTROLS` queries of the run:

    gold      the first accepted answer is the answer: the judge should call it right
    empty     the answer is empty: wrong
    other     the answer belongs to another query: wrong
    swapped   a stored answer and the accepted answer in each other's place: the verdict should stay the same

A judge with the same verdict for gold and empty answers measures nothing, whatever its scores are.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.grid.grid import Grid
from experiments.running.generation import answer_prompts
from experiments.running.recorder import as_stored
from experiments.stats import join_words
from experiments.store import Invocation, Store, write_json
from experiments.terminal.progress import Progress
from icl import ConfigError, Example, Generation, ICLError, nested_choice
from icl.metrics.machinery.judge import CONTROLS, Judge, JudgeRequest

CONTROL_FILE = "judges.json"
"""In the run directory: the counts of the controls of each judge."""

MAX_EMPTY, MIN_GOLD = 1 / 40, 38 / 40
"""The largest share of empty answers that a judge may call right, and the smallest one of accepted answers."""

CHUNK = 256
"""Answers that are sent to a judge together."""

NOTE_EVERY = 30.0
"""Seconds between two notes on the number of judged answers."""


def check_judges(grid: Grid) -> None:
    """Raises ConfigError if comparisons that end early would wait for a judge."""
    spec = grid.config.compare
    metric = spec.metric if spec is not None else None
    if grid.config.stop is not None and metric is not None and isinstance(grid.metrics.get(metric), Judge):
        raise ConfigError(
            f"{grid.config.where('stop')}: comparisons by '{metric}' cannot end early, because its judge answers when "
            "all samples are finished. Compare by another metric, or remove stop."
        )


def judge_answers(store: Store, grid: Grid, invocation: Invocation, progress: Progress) -> None:
    """Asks each judge for its missing verdicts, and writes the scores and the controls into the run directory."""
    controls: dict[str, Any] = {}
    for name, judge in grid.metrics.items():
        if not isinstance(judge, Judge):
            continue
        pending: dict[str, JudgeRequest] = {}
        places: list[tuple[str, str, JudgeRequest]] = []
        for cell, query, request in _unscored(store, grid, name, judge):
            pending[request.key] = request
            places.append((cell, query, request))
        outputs = _first_outputs(store, grid)
        answered = [
            (example, str(outputs[example.id].get("output", "")), as_stored(outputs[example.id], example))
            if example.id in outputs
            else (example, "", example)
            for task in grid.tasks
            for example in task.queries
        ]
        of_controls = control_requests(judge, answered)
        requests = {request.key: request for pairs in of_controls.values() for pair in pairs for request in pair}
        collect_verdicts(judge, [*pending.values(), *requests.values()], progress.note, name)
        _write_scores(store, name, judge, places, invocation)
        controls[name] = {control: count_controls(judge, control, pairs) for control, pairs in of_controls.items()}
        if pending:
            progress.note(describe_controls(name, controls[name]))
    if controls:
        write_json(store.folder / CONTROL_FILE, controls)


def collect_verdicts(
    judge: Judge, requests: Sequence[JudgeRequest], note: Callable[[str], None], name: str = "judge"
) -> None:
    """Asks for the verdicts that are not stored. A failed request is reported and can be asked for again.

    Args:
        judge: The metric. Its model is loaded only if a verdict is missing.
        requests: Requests to the judge, in any number.
        note: Receives messages.
        name: The name of the metric in messages.
    """
    missing = list({one.key: one for one in requests if one.key not in judge.verdicts}.values())
    if not missing:
        return
    note(f"{name}: {len(missing):,} distinct answers are judged")
    reasons: list[str] = []
    last_note = time.monotonic()
    judge.judge.load()
    try:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]

            def on_answer(i: int, answer: Generation | str, chunk: Sequence[JudgeRequest] = chunk) -> None:
                if isinstance(answer, str):
                    reasons.append(answer)
                else:
                    judge.add(chunk[i], answer.text)

            answer_prompts(judge.judge, [one.prompt for one in chunk], judge.max_new_tokens, on_answer)
            if time.monotonic() - last_note > NOTE_EVERY:
                note(f"{name}: {start + len(chunk):,} of {len(missing):,} answers are judged")
                last_note = time.monotonic()
    except ICLError as error:  # the samples of the run are finished, and stay
        reasons.append(str(error))
    finally:
        judge.judge.unload()
    if reasons:
        left = sum(one.key not in judge.verdicts for one in missing)
        note(f"{name}: {left:,} answers have no verdict ({reasons[0].rstrip('.')}). Run again to ask for them.")
    if unread := [one for one in missing if judge.verdicts.get(one.key, {"right": False})["right"] is None]:
        reply = judge.verdicts[unread[0].key]["reply"]
        note(
            f"{name}: {len(unread):,} of {len(missing):,} replies state no verdict, so their answers have no score, "
            f"such as {reply[:60]!r}."
        )


def describe_controls(name: str, counts: Mapping[str, Mapping[str, int]]) -> str:
    """A sentence on the controls of a judge, with a warning if it does not tell gold from empty answers."""
    gold, empty = counts["gold"], counts["empty"]
    what = {"gold": "accepted", "empty": "empty", "other": "other queries'"}
    called = [f"{one['right']} of {one['n']} {word} answers" for key, word in what.items() if (one := counts[key])["n"]]
    if not called:
        return f"{name}: the judge gave no verdict on its controls."
    text = f"{name}: the judge calls {join_words(called)} right"
    if (swapped := counts["swapped"])["n"]:
        text += f", and keeps {swapped['right']} of {swapped['n']} verdicts when the answers change places"
    is_constant = gold["n"] and empty["n"] and gold["right"] * empty["n"] <= empty["right"] * gold["n"]
    warning = " It does not tell accepted from empty answers: its scores measure nothing." if is_constant else ""
    return f"{text}.{warning}"


def _unscored(store: Store, grid: Grid, name: str, judge: Judge) -> Iterator[tuple[str, str, JudgeRequest]]:
    """(cell, query, request) of each finished sample without a score by this metric."""
    for cell in grid.cells:
        examples = {example.id: example for example in cell.task.queries}
        for sample in store.samples(cell.digest):
            example = examples.get(sample["query"])
            if not sample.get("failed") and example is not None and name not in sample.get("scores", {}):
                yield cell.digest, sample["query"], judge.request(sample.get("output", ""), as_stored(sample, example))


def _write_scores(
    store: Store, name: str, judge: Judge, places: Sequence[tuple[str, str, JudgeRequest]], invocation: Invocation
) -> None:
    """Adds the scores of new verdicts to the samples. places: (cell, query, request)."""
    scores: dict[str, dict[str, float]] = {}
    for cell, query, request in places:
        if (score := judge.value(judge.verdicts.get(request.key), request)) is not None:
            scores.setdefault(cell, {})[query] = score
    for cell, by_query in scores.items():
        store.replace_samples(cell, [_with_score(s, name, by_query, invocation.id) for s in store.samples(cell)])


def _with_score(sample: dict[str, Any], name: str, by_query: Mapping[str, float], invocation: int) -> Mapping[str, Any]:
    if sample["query"] not in by_query:
        return sample
    scores = {**sample.get("scores", {}), name: by_query[sample["query"]]}
    return {**sample, "scores": scores, "scores_invocation": invocation}


def control_requests(
    judge: Judge, answered: Sequence[tuple[Example, str, Example]]
) -> dict[str, list[tuple[JudgeRequest, ...]]]:
    """Control -> the requests of each query. `swapped` has two each: as asked, and with the answers exchanged.

    Args:
        judge: The judge.
        answered: Each query, an output of a model or '', and the query as this output was asked.
    """
    with_gold = [one for one in answered if one[0].answers]
    places = nested_choice([example.id for example, _, _ in with_gold], CONTROLS, 0, "judge")
    chosen = [with_gold[i][0] for i in places]
    by_control: dict[str, list[tuple[JudgeRequest, ...]]] = {"gold": [], "empty": [], "other": [], "swapped": []}
    for example in chosen:
        by_control["gold"].append((judge.request(example.answer, example),))
        by_control["empty"].append((judge.request("", example),))
        others = (one.answer for one in chosen if not set(one.answers) & set(example.answers))
        if (other := next(others, None)) is not None:
            by_control["other"].append((judge.request(other, example),))
    for _, output, stored in (with_gold[i] for i in places):
        if judge.exchangeable and judge.request(output, stored).texts["answer"]:
            by_control["swapped"].append((judge.request(output, stored), judge.swapped(output, stored)))
    return by_control


def refusal_of_controls(counts: Mapping[str, Mapping[str, int]]) -> str | None:
    """Why a judge cannot be used at all: it calls empty answers right, or accepted ones wrong. None if it can."""
    gold, empty = counts["gold"], counts["empty"]
    if empty["right"] > MAX_EMPTY * empty["n"]:
        return f"it calls {empty['right']} of {empty['n']} empty answers right"
    if gold["n"] == 0 or gold["right"] < MIN_GOLD * gold["n"]:
        return f"it calls only {gold['right']} of {gold['n']} accepted answers right"
    return None


def _first_outputs(store: Store, grid: Grid) -> dict[str, dict[str, Any]]:
    """Query -> a finished sample, of the first cell of each task."""
    first = {id(cell.task): cell.digest for cell in reversed(grid.cells)}
    samples = (sample for digest in first.values() for sample in store.samples(digest))
    return {sample["query"]: sample for sample in samples if not sample.get("failed")}


def count_controls(judge: Judge, control: str, pairs: Sequence[tuple[JudgeRequest, ...]]) -> dict[str, int]:
    """How often the judge said right (`swapped`: the same twice), of the verdicts that could be read."""
    verdicts = [[judge.verdicts.get(one.key, {"right": None})["right"] for one in pair] for pair in pairs]
    read = [values for values in verdicts if None not in values]
    right = sum(values[0] == values[-1] if control == "swapped" else bool(values[0]) for values in read)
    return {"right": right, "n": len(read), "unread": len(verdicts) - len(read)}
