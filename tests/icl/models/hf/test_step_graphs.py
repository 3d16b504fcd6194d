"""Steps with graphs have the logits of plain steps, whatever happens to the rows between them.

On a CPU, a graph is the record of a step's operations, which is repeated with the arguments of the first step.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import prompts
from torch import Tensor

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from icl.errors import ConfigError, ModelError
from icl.models.hf.memory import MemoryNeeds, RequestSize, plan_memory
from icl.models.hf.model import HF
from icl.models.hf.session import HFSession
from icl.models.hf.step_graphs import RecordedStep, StepGraphs, rounded_up
from icl.models.interventions import Site, Where
from icl.types import Generation
from lab.bench.decoding import Endless, prompts_of
from tests.icl.models.hf.test_memory import shape
from tests.random_models.site_checks import RandomEdit

CLOSE = 2e-5
"""Logits are of unit size; a wrong slot, mask or position shows as 1e-2 and more."""

TAKEN = ("llava", "qwen2_5_vl", "idefics3", "internvl")
FolderOf = Callable[[str], Path]


@pytest.fixture(scope="module", params=TAKEN)
def pair(request: pytest.FixtureRequest, folder_of: FolderOf) -> tuple[HF, HF]:
    """An architecture without and with graphs."""
    models = tuple(HF(path=str(folder_of(request.param)), cuda_graphs=on) for on in (False, True))
    for model in models:
        model.load()
    return models  # type: ignore[return-value]


@pytest.fixture(scope="module")
def tiny() -> tuple[HF, HF]:
    return HF(path="tiny"), HF(path="tiny", cuda_graphs=True)


def steps(rows: HFSession, count: int) -> Iterator[Tensor]:
    """The logits of greedy steps."""
    for _ in range(count):
        rows.advance(rows.logits.argmax(-1))
        yield rows.layer_logits


def life(model: HF) -> Iterator[Tensor]:
    """The logits of sessions whose rows end, split, join, read on, share prefixes and take turns."""
    rows = model.open(prompts())
    yield from steps(rows, 3)
    taken = rows.take(torch.tensor([4, 1]))
    yield from steps(taken, 2)  # the other session makes room
    yield from steps(rows, 2)
    rows.retain(torch.tensor([3, 0, 0]))
    rows.trim()
    yield from steps(rows, 2)
    rows.absorb(model.open(prompts()[:2], prefix_source=rows))
    yield from steps(rows, 2)
    rows.extend([[5, 6, 7], [8], [9, 9], [5], [6, 5]])
    rows.trim()
    yield from steps(rows, 40)  # beyond the slots of the first graph
    many = model.open(prompts()[:1]).take(torch.tensor([0] * 17))
    yield from steps(many, 2)
    deep = model.open(prompts()[:2], early_exits=True)
    yield from steps(deep, 2)


def test_the_logits_are_those_of_plain_steps(pair: tuple[HF, HF]) -> None:
    plain, graphed = pair
    before = graphed.counters()
    with torch.inference_mode():
        gaps = [float((a - b).abs().max()) for a, b in zip(life(plain), life(graphed), strict=True)]
    assert len(gaps) == 55
    assert max(gaps) < CLOSE
    done = {name: graphed.counters()[name] - before[name] for name in before}
    assert done["graph_steps"] == 55
    assert done["forwards"] == 55 + 1 + done["prefills"]  # and one for the chunks


def test_a_graph_is_captured_once_for_a_number_of_rows_and_slots(tiny: tuple[HF, HF]) -> None:
    _, model = tiny
    runner, calls = model.engine.runner, []
    hook = runner.model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for captures in (2, 1, 0):  # two sizes; the larger one needs more memory, which drops the first graph; none
            rows, before = model.open(prompts_of(0)[:3]), len(calls)
            list(steps(rows, 40))
            assert len(calls) - before == captures
    finally:
        hook.remove()
    assert {rows for rows, _, _ in runner.graphs.graphs} == {3}


ARMS = ("greedy", "vcd", "cad", "dola", "nbce", "sampling", "beam", "moicl", {"name": "mask_only", "of": "vcd"})


@pytest.mark.parametrize("joining", [False, True], ids=["batches", "continuous batching"])
def test_arms_choose_the_tokens_of_plain_steps(tiny: tuple[HF, HF], joining: bool) -> None:
    queries = [*prompts_of(0)[:2], *prompts_of(3)[:2]]
    requests = [
        DecodingRequest(one, parse_arm(arm), max_new_tokens=4 + 9 * i) for i, one in enumerate(queries) for arm in ARMS
    ]
    made = []
    for model in tiny:
        endless: Any = Endless(model)
        made.append(run_requests(endless, requests, continuous_batching=joining))
    assert all(isinstance(one, Generation) for one in made[0])
    assert [one.tokens for one in made[0]] == [one.tokens for one in made[1]]  # type: ignore[union-attr]
    assert tiny[1].counters()["graph_steps"] > 0
    assert tiny[0].counters()["graph_steps"] == 0


REFUSED = {"gemma3": "DynamicSlidingWindowLayer", "qwen3_5": "LinearAttentionLayer", "mllama": "CrossAttentionLayer"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_class_with_other_layers_is_refused_when_it_is_loaded(name: str, folder_of: FolderOf) -> None:
    with pytest.raises(ModelError, match=f"cannot be a CUDA graph: its KV cache .*{REFUSED[name]}.*cuda_graphs: false"):
        HF(path=str(folder_of(name)), cuda_graphs=True).load()


@pytest.mark.parametrize("changed", [{"attention": "flash_attention_2"}, {"is_from_transformers": False}])
def test_attention_that_makes_its_own_mask_is_refused(changed: dict[str, object]) -> None:
    runner = HF(path="tiny").engine.runner
    vars(runner).update(changed)
    with pytest.raises(ModelError, match=r"cannot be a CUDA graph: its attention .* makes its own mask"):
        StepGraphs(runner)


@pytest.mark.parametrize(
    ("in_forward", "sentence"),
    [
        (lambda states, _: states * float(states.abs().max() > 0), "reads a tensor on the host"),
        (lambda states, calls: states * calls, "its logits differ by"),
        (lambda states, _: states + torch.tensor([0.0]), "reads a tensor on the host"),
    ],
    ids=["a read", "a number of Python", "a copy"],
)
def test_what_a_graph_would_freeze_is_refused(in_forward: Any, sentence: str) -> None:
    model = HF(path="tiny")
    runner, calls = model.engine.runner, []

    def change(module: object, inputs: object, states: Tensor) -> Tensor:
        calls.append(1)
        result: Tensor = in_forward(states, len(calls))
        return result

    from icl.models.hf.self_check import check_step_graphs

    runner.model.get_input_embeddings().register_forward_hook(change)
    with pytest.raises(ModelError, match=sentence):
        check_step_graphs(model.engine.prompt_encoder, runner)


def test_steps_with_an_intervention_are_plain(tiny: tuple[HF, HF]) -> None:
    """A row that changes at each token stands beside one without changes, and leaves."""
    edit = RandomEdit((Site("residual", 1),), Where("all", "both"), 1.0)
    made, counts = [], []
    for model in tiny:
        rows = model.open(prompts_of(0)[:2], interventions=[edit, None])
        before = model.counters()["graph_steps"]
        logits = list(steps(rows, 3))
        counts.append(model.counters()["graph_steps"] - before)
        rows.retain(torch.tensor([1]))
        logits += steps(rows, 3)
        counts.append(model.counters()["graph_steps"] - before)
        made.append(logits)
    assert counts == [0, 0, 0, 3]
    assert max(float((a - b).abs().max()) for a, b in zip(*made, strict=True)) < CLOSE


def test_the_switch_is_a_part_of_the_digest_and_of_no_other() -> None:
    assert HF(path="tiny").digest == HF(path="tiny", cuda_graphs=False).digest
    assert HF(path="tiny").digest != HF(path="tiny", cuda_graphs=True).digest


@pytest.mark.parametrize("settings", [{"device_map": "auto"}, {"device": "mps"}])
def test_a_graph_runs_on_one_gpu(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cuda_graphs: a CUDA graph runs on one GPU"):
        HF(path="tiny", cuda_graphs=True, **settings)  # type: ignore[arg-type]


def test_on_a_cpu_a_note_says_that_no_time_is_saved(tiny: tuple[HF, HF]) -> None:
    assert any("saves no time" in note for note in tiny[1].notes)
    assert tiny[0].notes == ()


def test_graphs_halve_the_rows_of_a_plan() -> None:
    request = RequestSize(branches=1, prompt_tokens=1000, new_tokens=24)
    plans = [
        plan_memory(MemoryNeeds(shape("7B"), cuda_graphs=on), request, 80 * 2**30, token_budget=None)
        for on in (False, True)
    ]
    assert 0.35 < plans[1].rows / plans[0].rows < 0.5


def test_sizes_grow_by_at_most_an_eighth() -> None:
    for size in range(1, 3000):
        assert size <= rounded_up(size) <= size * 9 / 8
        assert rounded_up(size, 32) % 32 == 0
    assert len({rounded_up(size) for size in range(1024, 2048)}) == 9


def test_memory_is_freed_and_made_again(tiny: tuple[HF, HF]) -> None:
    plain, model = tiny
    graphs = model.engine.runner.graphs
    assert isinstance(graphs, StepGraphs)
    want, rows = plain.open(prompts_of(0)[:2]), model.open(prompts_of(0)[:2])
    for free in (False, True, False):
        if free:
            model.free_buffers()
            assert not graphs.memory
        (a,), (b,) = steps(want, 1), steps(rows, 1)
        assert float((a - b).abs().max()) < CLOSE
    other = model.open(prompts_of(1)[:2])
    list(steps(other, 1))  # takes new memory
    (a,), (b,) = steps(want, 1), steps(rows, 1)
    assert float((a - b).abs().max()) < CLOSE


def test_a_recorded_step_repeats_its_operations_on_new_values() -> None:
    x, y = torch.zeros(3), torch.ones(3)
    step = RecordedStep(lambda: (x.add_(1) * y).view(3, 1).split(1)[2])
    assert (x.tolist(), len(step.calls)) == ([1.0] * 3, 4)
    y.fill_(5)
    assert step().tolist() == [[10.0]]
