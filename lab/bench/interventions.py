"""What interventions cost: time of prompts and steps under vectors, and of the effects of all heads in one batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from decoding.interventions.edits import HeadEdit, VectorEdit
from decoding.interventions.fit_data import DevPrompt, FitData
from decoding.interventions.head_effects import head_effects, mean_head_inputs
from icl.models.hf.model import HF
from icl.models.interventions import Intervention, Site, Where, steer
from lab.bench import Row, one_thread
from lab.bench.decoding import prompts_of
from lab.bench.timing import cpu_rounds, round_ratios, with_spread

STEPS, ROWS = 8, 16


def rows() -> Iterator[Row]:
    """All figures of this file."""
    model = HF(path="tiny", device="cpu")
    model.load()
    with one_thread():
        yield from _decoding(model)
        yield _effects(model)


def _decoding(model: HF) -> Iterator[Row]:
    """Sixteen prompts and eight steps under vectors, over the same without."""
    prompts = [prompt for seed in range(1, 9) for prompt in prompts_of(seed)][:ROWS]
    model.open(prompts)
    generator = torch.Generator().manual_seed(0)

    def vector() -> VectorEdit:
        own = 0.1 * torch.randn(model.sites.width, generator=generator)
        return VectorEdit({Site("residual", 2): own}, "add", where=Where(part="both"))

    one, many, off = vector(), [vector() for _ in prompts], VectorEdit({}, strength=0.0)
    plain = _run(model, prompts, [None] * len(prompts))
    every = _run(model, prompts, [one] * len(prompts))
    what = f"{ROWS} prompts and {STEPS} steps"
    yield f"{what}, vector off: time over plain", _ratio(_run(model, prompts, [off] * len(prompts)), plain), "1.00"
    yield f"{what}, one vector at every token of the answer: time over plain", _ratio(every, plain), "<= 1.03"
    yield f"{what}, {ROWS} vectors: time over one vector", _ratio(_run(model, prompts, many), every), "<= 1.10"


def _run(model: HF, prompts: Any, edits: Sequence[Intervention | None]) -> Callable[[], None]:
    def run() -> None:
        session = model.open(prompts, interventions=edits)
        for _ in range(STEPS):
            session.advance(session.logits.argmax(-1))

    return run


def _effects(model: HF) -> Row:
    """Effects of all heads on a few prompts, over one forward pass for each head and prompt, as the release runs."""
    prompts = tuple(DevPrompt(str(i), prompt, ("a",)) for i, prompt in enumerate(prompts_of(9)))
    data = FitData(model, prompts[:2], prompts[2:])
    inputs = mean_head_inputs(data)["few_shot"]
    chosen = prompts[2:6]

    def loop() -> None:
        for one in chosen:
            base = one.with_shuffled_answers
            for layer in range(inputs.shape[0]):
                for head in range(inputs.shape[1]):
                    edit = HeadEdit({layer: (head,)}, {layer: inputs[layer, head : head + 1]})
                    model.engine.prefiller.cached_prefixes.clear()
                    model.open([steer(base, edit)])

    ratio = _ratio(loop, lambda: head_effects(data, inputs, chosen), 3)
    return f"effects of all heads on {len(chosen)} prompts: time of single forwards over one batch", ratio, ">= 8"


def _ratio(run: Callable[[], Any], other: Callable[[], Any], times: int = 9) -> str:
    return with_spread(round_ratios(*cpu_rounds([run, other], times)))
