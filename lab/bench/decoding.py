"""The cost of decoding: the token loop against `generate`, contrast against released code, arms that share a prefill.

Ratios of one run on this machine, on the shipped model; `python -m lab.bench.decoding [CHECKPOINT]` prints
them. Each is the median over rounds of the ratio of CPU times, with minimum and maximum.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.conformance import random_logits
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches
from decoding.formulas.sampling import Sampling
from decoding.strategies.vcd import VCD
from icl.images import Image
from icl.models.hf.model import HF
from icl.streams import StreamKey
from icl.tasks.generated.binding import BindingTask
from icl.types import Context, Demo, Part, Prompt
from lab.bench import Row, one_thread
from lab.bench.timing import cpu_rounds, round_ratios, with_spread
from prompts.composers.turns import Chat

BATCH, SHOTS, LONG_ANSWER, SHORT_ANSWER, ROUNDS = 16, 8, 48, 4, 5
VOCABULARY = 150_000


class Endless:
    """A model without an end of text, so that all answers have the same length."""

    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, model: HF) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def rows(path: str = "tiny") -> Iterator[Row]:
    """All figures of this file, on one thread."""
    with one_thread():
        model = HF(path=path, dtype="float32", device="cpu")
        model.load()
        for part in (_against_generate, _against_released, _many_arms):
            yield from part(model)
        yield from _sampling()


def _against_generate(model: HF) -> list[Row]:
    """Tokens per second of decoding: a long answer minus one of a single token, so that prefills do not count."""
    prompts, endless = prompts_of(0), Endless(model)
    table = []
    for name, arm, copies, goal in (
        ("greedy", "greedy", 1, 0.95),
        ("vcd", "vcd", 2, 0.9),
        ("3 branches", branching(3), 3, 0.9),
        ("8 branches", branching(8), 8, 0.9),
    ):
        inputs, new = processed(model, prompts * copies), LONG_ANSWER if copies < 8 else LONG_ANSWER // 2
        arms = [parse_arm(arm)]
        ours = [partial(_run, endless, arms=arms, new=size, lazy_branches="never") for size in (new, 1)]
        theirs = [partial(generated, model, inputs, size) for size in (new, 1)]
        times = ROUNDS if copies < 3 else 2
        long, short, their_long, their_short = in_turn([*ours, *theirs], lambda: prompts, times)
        spent = [a - b for a, b in zip(long, short, strict=True)]
        ratios = round_ratios([a - b for a, b in zip(their_long, their_short, strict=True)], spent)
        rate = BATCH * (new - 1) / median(spent)
        rest = f"{rate:,.0f} tokens/s; with prefill {with_spread(round_ratios(their_long, long))}"
        against = "generate" if copies == 1 else f"generate on {copies} x the rows"
        table.append(
            (f"{name}, batch {BATCH}: tokens/s over {against}", f"{with_spread(ratios)}, {rest}", f">= {goal}")
        )
    return table


def branching(count: int) -> dict[str, Any]:
    """An arm with this many branches, with increasing noise."""
    others = [{"change": "noise", "step": 100 * i} for i in range(1, count)]
    return {"name": "contrast", "branches": others, "weights": [2.0, *[-1 / len(others)] * len(others)]}


def _against_released(model: HF) -> list[Row]:
    """VCD against its released code, which runs inside `generate`: one query at a time, two forwards per token.

    From prompts to tokens, with new images in every run, and with images that an earlier arm has encoded (the released
    code encodes them again).
    """
    method, endless, fresh = VCD(), Endless(model), itertools.count(20_000)

    def released(prompts: Sequence[Prompt], new: int) -> None:
        for prompt in prompts:
            image_state, noised = (processed(model, [branch]) for branch in method.branches(prompt))
            generated(model, image_state, new, prompts, ContrastProcessor(model.engine.runner.model, noised, method))

    table = []
    for new in (LONG_ANSWER, SHORT_ANSWER):
        ours = partial(_run, endless, arms=[Arm(method)], new=new)
        for image_state in ("new images", "images of an earlier arm"):
            cached_prompts = prompts_of(next(fresh))
            spent, theirs = in_turn(
                [ours, partial(released, new=new)],
                (lambda: prompts_of(next(fresh)))
                if image_state == "new images"
                else (lambda same=cached_prompts: same),  # type: ignore[misc]
                3,
            )
            ours_ms, theirs_ms = (median(seconds) / BATCH * 1e3 for seconds in (spent, theirs))
            ratio = with_spread(round_ratios(theirs, spent), " x", 1)
            figure = f"{ratio}, {ours_ms:.1f} ms a query, {theirs_ms:.1f} ms"
            what = f"vcd, batch {BATCH}, {new} tokens, {image_state}: speed over a loop in the released style"
            table.append((what, figure, ">= 10 x"))
    return table


def _many_arms(model: HF) -> list[Row]:
    """Grids of six and twelve arms with short answers, over their greedy arm alone; new images in every run."""
    fresh, counters = itertools.count(1), Counters()
    vcd = parse_arm("vcd")
    sampled = parse_arm({"name": "vcd", "sampling": {"temperature": 1.0}})
    six = [parse_arm("greedy"), parse_arm("sampling"), vcd, sampled, *default_controls(vcd)[:2]]
    more = ({"alpha": 0.5}, {"beta": 0.3}, {"alpha": 0.5, "beta": 0.3})
    others = ("cad", {"name": "plain_average", "of": "vcd"}, {"name": "sign_flip", "of": "vcd"})
    twelve = [*six, *(parse_arm({"name": "vcd", **parameters}) for parameters in more), *map(parse_arm, others)]
    alone, half, whole = in_turn(
        [
            partial(_run, model, arms=six[:1], new=SHORT_ANSWER),
            partial(_run, model, arms=six, new=SHORT_ANSWER, counters=counters),
            partial(_run, model, arms=twelve, new=SHORT_ANSWER),
        ],
        lambda: prompts_of(next(fresh)),
    )
    what = f"six arms, {SHOTS} shots"
    return [
        (
            f"{name} arms, {SHOTS} shots, up to {SHORT_ANSWER} tokens: time over the greedy arm",
            f"{with_spread(round_ratios(spent, alone))}, {median(spent) / BATCH * 1e3:.1f} ms a query",
            goal,
        )
        for name, spent, goal in (("six", half, "<= 2"), ("twelve", whole, "<= 3"))
    ] + [
        (
            f"{what}: branch prompts prefilled, of those read",
            f"{counters.prompts_prefilled} of {counters.branch_prompts}",
            "",
        ),
        (f"{what}: rows decoded, of those asked for", f"{counters.rows} of {counters.rows_without_sharing}", ""),
    ]


def _sampling() -> list[Row]:
    """Sampling from a large vocabulary, next to the softmax that any sampler needs."""
    scores = torch.cat([random_logits(1, BATCH)[0]] * (VOCABULARY // 97 + 1), -1)[:, :VOCABULARY]
    keys = [StreamKey(0, f"q{i}") for i in range(BATCH)]
    runs: list[Callable[[Any], object]] = [
        lambda _: Sampling().choose(scores, keys, 0),
        lambda _: Sampling(top_p=0.9).choose(scores, keys, 0),
        lambda _: scores.softmax(-1),
    ]
    plain, nucleus, softmax = (
        with_spread([each / BATCH * 1e3 for each in seconds], " ms") for seconds in in_turn(runs, lambda: None)
    )
    figure = f"{plain}, top-p of flat scores {nucleus}, softmax {softmax}"
    return [(f"one draw among {VOCABULARY:,} tokens", figure, "")]


def prompts_of(seed: int) -> list[Prompt]:
    """BATCH prompts of the binding task with distinct images, already rendered."""
    task = BindingTask(seed=seed, query_limit=BATCH)
    composer, prompts = Chat(), []
    for query in task.queries:
        demos = tuple(Demo(example, 0.0, i) for i, example in enumerate(task.pool(query.id).examples[:SHOTS]))
        prompt = composer.compose(Context(query.query, demos, StreamKey(0, f"{seed}-{query.id}")))
        prompts.append(prompt.map(with_decoded_image))
    return prompts


def with_decoded_image(part: Part) -> Part:
    """The part with its image in memory."""
    if part.image is None:
        return part
    return replace(part, content=Image.from_pil(part.image.open(), part.image.origin))


def _run(
    model: Any,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    *,
    new: int,
    counters: Counters | None = None,
    lazy_branches: LazyBranches = "auto",
) -> None:
    jobs = [DecodingRequest(prompt, arm, max_new_tokens=new) for prompt in prompts for arm in arms]
    for answer in run_requests(model, jobs, counters, lazy_branches=lazy_branches):
        if isinstance(answer, Failure):
            raise RuntimeError(answer.reason)


def forget(model: HF) -> None:
    """Clears the caches, as in a model that was just loaded."""
    model.pixels.cache.clear()
    model.engine.prefiller.cached_prefixes.clear()
    if model.engine.prompt_encoder.encoder:
        model.engine.prompt_encoder.encoder.cache.clear()


def processed(model: HF, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The inputs of all conversations from the processor, left padded, with the original of each noised image."""
    conversations = [
        [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if part.image is None
                    else {"type": "image", "image": replace(part.image, edits=()).open()}
                    for part in turn.parts
                ],
            }
            for turn in prompt.turns
        ]
        for prompt in prompts
    ]
    return dict(
        model.checkpoint.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    )


def generated(model: HF, inputs: dict[str, Any], new: int, _: Any, *processors: Any) -> None:
    """Runs `generate` on prepared inputs; the argument of the round is not used."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # no warning about the end token, which is never reached on purpose
    fixed: dict[str, Any] = {"do_sample": False, "max_new_tokens": new, "eos_token_id": -1, "pad_token_id": 0}
    with torch.inference_mode():
        made = model.engine.runner.model.generate(**inputs, **fixed, logits_processor=list(processors))
    if made.shape[1] != inputs["input_ids"].shape[1] + new:
        raise RuntimeError("generate stopped early: the comparison would not be fair")


class ContrastProcessor:
    """A logits processor that decodes the noised prompt with its own cache and contrasts the scores with it."""

    def __init__(self, model: Any, noised: dict[str, Any], method: VCD) -> None:
        self.model, self.noised, self.method = model, noised, method
        self.cache: Any = None

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            output = self.model(**self.noised, use_cache=True, logits_to_keep=1)
        else:
            output = self.model(input_ids=tokens[:, -1:], cache=self.cache, use_cache=True)
        self.cache = output.cache
        z = torch.stack([scores, output.logits[:, -1].float()])
        mask, combined = self.method.mask(z[0]), self.method.combine(z, 0)
        return combined if mask is None else combined.masked_fill(~mask, -torch.inf)


def in_turn(
    runs: Sequence[Callable[[Any], object]], make_input: Callable[[], Any], times: int | None = None
) -> list[list[float]]:
    """CPU seconds of each run in each round. `make_input` makes the argument of a run, outside the time."""
    made: list[Any] = [None]

    def prepare() -> None:
        made[0] = make_input()

    return cpu_rounds([lambda run=run: run(made[0]) for run in runs], times or ROUNDS, prepare)  # type: ignore[misc]


if __name__ == "__main__":
    for row in rows(*sys.argv[1:2]):
        print(" | ".join(row))
