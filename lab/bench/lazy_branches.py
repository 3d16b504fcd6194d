"""Lazy contrast branches: prefilled prompts and time relative to eager branches, and counts of gated steps.

VCD on the shipped model. In each round, all schedules answer the same prompts in turn, with images that are new to
them. A ratio is the median of processor times over the rounds, with minimum and maximum. The number of answers that
need their contrast comes from the traces of the eager run. `python -m lab.bench.lazy_branches [CHECKPOINT]`
prints the rows.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from decoding.arms.arm import Arm, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import ArmWork, Counters, DecodingRequest, Failure, LazyBranches
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.tasks.generated.scenes import AttributeTask, CaptionsTask, ExistenceTask
from icl.types import Context, Demo, Generation, Prompt
from lab.bench import Row, one_thread, rounds
from lab.bench.decoding import forget, with_decoded_image
from lab.bench.timing import with_spread
from prompts.composers.turns import Chat

QUERIES, ROUNDS = 32, 9
LONG, SHORT = 24, 3
GATE_PROBABILITY = 0.9
"""Probability of the reference's best token from which the gated arm leaves the contrast out."""

Task = Callable[..., Any]


def rows(path: str = "tiny") -> Iterator[Row]:
    """All figures of this file, on one thread."""
    with one_thread():
        model = HF(path=path, dtype="float32", device="cpu")
        model.load()
        everywhere = {"name": "vcd", "images": "all"}
        yield from _late(model, "short answers, 0 shots", AttributeTask, shots=0, new=SHORT)
        yield from _late(model, "yes or no, 0 shots", ExistenceTask, shots=0, new=SHORT)
        yield from _late(model, "short answers, 4 shots", AttributeTask, shots=4, new=SHORT)
        what = "short answers, 4 shots, all images noised"
        yield from _late(model, what, AttributeTask, shots=4, new=SHORT, arm=everywhere)
        yield from _late(model, "captions, 0 shots", CaptionsTask, shots=0, new=LONG)
        yield from _gated(model)


def _late(model: HF, what: str, task: Task, *, shots: int, new: int, arm: Any = "vcd") -> list[Row]:
    fresh, method = itertools.count(1), parse_arm(arm)
    choices: tuple[LazyBranches, ...] = ("never", "always", "auto")
    runs = [partial(_run, model, arm=method, new=new, lazy_branches=late) for late in choices]
    _, late, chosen = _over_the_first(model, runs, lambda: prompts_of(task, next(fresh), shots))
    prompts, chose = prompts_of(task, 0, shots), Counters()
    answers = _run(model, prompts, arm=method, new=new, lazy_branches="never")
    needed = sum(any(tokens > 1 for tokens in answer.trace["plausible_tokens"]) for answer in answers)
    counted = Counters()
    before = model.counters()
    again = _run(model, prompts, arm=method, new=new, lazy_branches="always", counters=counted)
    work = {name: value - before[name] for name, value in model.counters().items()}
    contrasts = work["prompt_tokens"] - sum(map(model.count_tokens, prompts))
    reused = work["shared_prefix_tokens"] / max(1, contrasts)
    _run(model, prompts, arm=method, new=new, lazy_branches="auto", counters=chose)
    opened = _arm(counted).contrasts - _arm(counted).prefills_saved
    tokens = sum(answer.usage.new_tokens for answer in answers) / len(answers)
    same = sum(a.tokens == b.tokens for a, b in zip(answers, again, strict=True))
    way = "lazy" if _arm(chose).lazy else "eager"
    small = new <= SHORT and needed < 0.5 * QUERIES
    return [
        (
            f"vcd, {what}: contrasts prefilled lazily; answers that need one",
            f"{opened}; {needed} of {QUERIES}",
            "equal",
        ),
        (f"the same: answers equal to the eager ones ({tokens:.1f} tokens)", f"{same} of {QUERIES}", f"{QUERIES}"),
        ("the same: share of the contrasts' prompt tokens that reuse the reference's KV cache", f"{reused:.2f}", ""),
        ("the same: time of lazy over eager", late, "<= 0.80" if small else ""),
        (f"the same: time of the automatic choice ({way}) over eager", chosen, "<= 1.03"),
    ]


def _over_the_first(model: HF, runs: Sequence[Callable[[Any], object]], make_input: Callable[[], Any]) -> list[str]:
    """The CPU time of each run over that of the first one; the first round does not count."""
    ratios: list[list[float]] = []
    for number in range(rounds(ROUNDS) + 1):
        made, times = make_input(), [0.0] * len(runs)
        for i in range(len(runs)):
            place = (i + number) % len(runs)
            forget(model)
            begin = time.process_time()
            runs[place](made)
            times[place] = time.process_time() - begin
        if number:
            ratios.append([spent / times[0] for spent in times])
    return [with_spread(own) for own in zip(*ratios, strict=True)]


def _gated(model: HF) -> list[Row]:
    """The counts of a gated arm next to those that follow from the probabilities of the reference."""
    arm, prompts, work = (
        parse_arm({"name": "chasd", "threshold": GATE_PROBABILITY}),
        prompts_of(CaptionsTask, 0, 0),
        Counters(),
    )
    answers = _run(model, prompts, arm=arm, new=LONG, lazy_branches="auto", counters=work)
    needed = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        session = model.open([prompt])
        for step, token in enumerate([*answer.tokens, -1][: answer.usage.new_tokens]):
            unsure = float(session.logits.softmax(-1).max()) < GATE_PROBABILITY and not _alone(arm, session.logits)
            needed += step > 0 and unsure
            if token >= 0:
                session.advance(session.logits.new_tensor([token]).long())
    of = _arm(work)
    figure = f"{of.tokens - of.forwards_saved} of {of.tokens}; {needed}"
    return [("gated vcd, captions: contrast forwards run of one a token; steps that need one", figure, "equal")]


def _alone(arm: Arm, logits: Any) -> bool:
    mask = parse_arm("vcd").strategy.mask(logits)
    return mask is not None and int(mask.sum()) == 1


def prompts_of(task: Task, seed: int, shots: int) -> list[Prompt]:
    """QUERIES prompts of a generated task with distinct images, already rendered."""
    made, composer = task(seed=seed, query_limit=QUERIES), Chat()
    written = []
    for query in made.queries:
        examples = made.pool(query.id).examples[:shots]
        demos = tuple(Demo(example, 0.0, i) for i, example in enumerate(examples))
        written.append(
            composer.compose(Context(query.query, demos, StreamKey(0, f"{seed}-{query.id}"))).map(with_decoded_image)
        )
    return written


def _run(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    arm: Arm,
    new: int,
    lazy_branches: LazyBranches,
    counters: Counters | None = None,
) -> list[Generation]:
    jobs = [DecodingRequest(prompt, arm, max_new_tokens=new) for prompt in prompts]
    answers = run_requests(model, jobs, counters, lazy_branches=lazy_branches)
    for answer in answers:
        if isinstance(answer, Failure):
            raise RuntimeError(answer.reason)
    return [answer for answer in answers if isinstance(answer, Generation)]


def _arm(counters: Counters) -> ArmWork:
    (work,) = counters.arms.values()
    return work


if __name__ == "__main__":
    for row in rows(*sys.argv[1:2]):
        print(" | ".join(row))
