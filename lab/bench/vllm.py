"""The cost of strategies inside vLLM: lockstep against greedy, the unused plug-in, a run against a script.

Needs an environment with vLLM (tests/vllm_env.sh makes one): `python -m lab.bench vllm` there. Each figure is a
ratio of CPU times on one engine: the median over rounds in turn, with minimum and maximum. The model has random weights
and the shape of a small real one, because a step of the shipped model is mostly overhead.
"""

import gc
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from decoding.base import Note, Strategy
from icl import spans
from icl.models.vllm.model import VLLM
from icl.types import Prompt
from lab.bench import Row
from lab.bench.timing import cpu_rounds, round_ratios, with_spread
from tests.random_models.conversations import conversation

if TYPE_CHECKING:
    from torch import Tensor

ROWS, LENGTH, ROUNDS = 24, 32, 9
NEW = 8
WIDTH, LAYERS, VOCABULARY = 768, 8, 32_000


@dataclass(frozen=True)
class Crowd(Strategy):
    """A contrast with the mean of any number of equal prompts: the cost of branches without image edits."""

    count: int = 2

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return (prompt,) * self.count

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        scores: Tensor = 2 * logits[0] - logits[1:].mean(0)
        return scores


def rows() -> Iterator[Row]:
    """All figures of this file."""
    if importlib.util.find_spec("vllm") is None:
        yield "vLLM is not installed here: tests/vllm_env.sh makes an environment for it", "not measured", ""
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    folder = Path(tempfile.mkdtemp(prefix="icl-bench-"))
    try:
        large = _large(folder / "model")
        yield from _decoding(large)
        yield from _runs(folder / "large", str(large), "a model of 100 million weights", 192)
        yield from _runs(folder / "tiny", "tiny", "the shipped model, 3 ms a sample", 2048)
    finally:
        shutil.rmtree(folder)


def _large(folder: Path) -> Path:
    """The shipped architecture with a wider language model of random weights."""
    import transformers

    source = VLLM().hf.checkpoint.folder
    config = transformers.AutoConfig.from_pretrained(source)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = WIDTH, 4 * WIDTH, LAYERS
    text.num_attention_heads = text.num_key_value_heads = WIDTH // 64
    text.head_dim, text.vocab_size = 64, VOCABULARY
    transformers.AutoModelForImageTextToText.from_config(config).float().save_pretrained(folder)
    for file in Path(source).iterdir():
        if not (folder / file.name).exists() and file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    return folder


def _decoding(folder: Path) -> Iterator[Row]:
    settings = {"max_num_seqs": 64, "max_num_batched_tokens": 4096}
    model = VLLM(str(folder), max_model_len=512, cache_gib=0.5, trace=False, engine_args=settings)
    model.load()
    prompts = _prompts(ROWS)
    arms: dict[str, Any] = {"greedy": "greedy"}
    for count in (2, 3, 8):
        arms[f"{count} branches"] = {"name": f"{__file__}:Crowd", "count": count}
    arms["2 branches, sampled"] = arms["2 branches"] | {"sampling": {"temperature": 1.0}}
    base, *others = _in_turn([_run(model, prompts, arm) for arm in arms.values()])
    for (what, _), spent in zip(list(arms.items())[1:], others, strict=True):
        yield f"lockstep, {what}: tokens a second against greedy on as many rows", _faster(base, spent), ">= .90"
    yield "lockstep: sampled against greedy", _faster(others[0], others[-1]), ">= .95"
    bare = _Bare(str(folder), max_model_len=512, cache_gib=0.5, trace=False, engine_args=settings)
    bare.load()
    with_it, without = _in_turn([_run(model, prompts, "greedy"), _run(bare, prompts, "greedy")])
    yield "ordinary requests: unused plug-in against an engine without it", _faster(without, with_it), ">= .98"
    model.unload()
    bare.unload()


class _Bare(VLLM):
    """vLLM without the plug-in."""

    def arguments(self) -> dict[str, Any]:
        from icl.models.vllm.engine import PLUGIN_ARGS, scheduling_args

        plugin_args = PLUGIN_ARGS | scheduling_args(is_async=False)
        return {key: value for key, value in super().arguments().items() if key not in plugin_args}


def _run(model: VLLM, prompts: Sequence[Prompt], arm: Any) -> Callable[[], None]:
    """A run of ROWS rows with LENGTH tokens each, prefill included, with empty caches."""
    from decoding.arms.arm import parse_arm
    from decoding.lockstep.request_metadata import BranchMetadata, serialize
    from icl.models.vllm.engine_io import EngineRequest

    parsed = parse_arm(arm)
    count = getattr(parsed.strategy, "count", 1)
    serialized = serialize(parsed.strategy, parsed.sampler)
    numbers = iter(range(10**6))

    def run() -> None:
        number = next(numbers)

        def extra(group: int, b: int) -> dict[str, str]:
            name = f"bench-{id(run)}-{number}-{group}"
            return BranchMetadata(name, b, count, serialized, query=f"q{group}").extra_args() if count > 1 else {}

        groups = [
            [EngineRequest(prompts[g * count + b], LENGTH, extra(g, b), stops=False) for b in range(count)]
            for g in range(len(prompts) // count)
        ]
        _llm(model).reset_prefix_cache()
        model.run_groups(groups, _check_lengths)

    return run


def _llm(model: "VLLM") -> Any:
    """The vLLM object of the engine in this process."""
    from icl.models.vllm.engine import VLLMEngine

    engine = model.engine
    assert isinstance(engine, VLLMEngine), "benches run on one engine"
    return engine.llm


def _check_lengths(number: int, outputs: Any) -> None:
    wrong = [one for one in outputs if one.finish != "length"]
    assert not wrong, wrong[0]


def _runs(folder: Path, path: str, what: str, queries: int) -> Iterator[Row]:
    """A whole run, with scores and storage, against `LLM.chat` with the same conversations."""
    from experiments.config.config import load_config
    from experiments.grid.grid import expand
    from experiments.planning.plan import make_plan
    from experiments.running.run import run

    warm = WarmVLLM(path)
    warm.load()
    llm = _llm(warm)
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    numbers = iter(range(10**6))

    def ours() -> None:
        _forget(warm)
        outcome = run(load_config(_file(f"run-{next(numbers)}", path, queries)), folder)
        assert (outcome.computed, outcome.failed) == (queries, 0), outcome

    WarmVLLM.prompts.clear()
    before, encoded = dict(warm.counters()), scheduler.counts["encoder inputs"]
    ours()
    read, cached = (warm.counters()[key] - before[key] for key in ("prompt_tokens", "cached_tokens"))
    encoded = scheduler.counts["encoder inputs"] - encoded
    prompts = list(WarmVLLM.prompts.values())
    conversations = [conversation(prompt, "image_pil") for prompt in prompts]

    def by_hand() -> None:
        from vllm import SamplingParams

        _forget(warm)
        llm.chat(conversations, SamplingParams(temperature=0, max_tokens=NEW), use_tqdm=False)

    def start_only() -> None:
        run(load_config(_file(f"run-{next(numbers)}", path, 1)), folder)

    mine, theirs, starts = _in_turn([ours, by_hand, start_only], 5)
    yield f"icl run against LLM.chat by hand, {what}: samples a second", _faster(theirs, mine), ">= .95"
    samples = median(round_ratios(starts, mine)) * queries
    yield "  start of the run, in samples", f"{samples:.0f} of {queries:,}", ""
    planned = make_plan(expand(load_config(_file("planned", path, queries)))).cached_fraction
    yield "  share of prompt tokens in the prefix cache, and as planned", f"{cached / read:.3f}, {planned:.3f}", "equal"
    images = len({image.digest for prompt in prompts for image in prompt.images})
    yield "  encoder runs, and distinct images", f"{encoded}, {images}", "equal"
    WarmVLLM.engines.pop().stop()


@dataclass(frozen=True)
class WarmVLLM(VLLM):
    """A model whose engine stays loaded between runs, and which records its prompts."""

    engines: ClassVar[list[Any]] = []
    prompts: ClassVar[dict[str, Prompt]] = {}  # by digest, in order

    @cached_property
    def engine(self) -> Any:
        if not self.engines:
            model = VLLM(self.path, cache_gib=1, max_images=16, engine_args={"max_num_seqs": 64})
            model.load()
            self.engines.append(model.engine)
        return self.engines[0]

    @cached_property
    def hf(self) -> Any:
        """The Hugging Face part of the engine."""
        return self.engine.model.hf

    def unload(self) -> None:
        """Keeps the engine."""

    def run_groups(self, groups: Any, done: Any) -> None:
        def noted() -> Iterator[Any]:
            for asks in groups:
                for ask in asks:
                    self.prompts.setdefault(ask.prompt.digest, ask.prompt)
                yield asks

        super().run_groups(noted(), done)


def _file(name: str, path: str, queries: int) -> dict[str, Any]:
    """The config of a run with the same demonstrations for all queries."""
    return {
        "name": name,
        "task": {"name": "easy-vqa", "queries": queries},
        "model": {"name": f"{__name__}:WarmVLLM", "path": path},
        "retriever": "lab.bench.grid:Fixed",
        "shots": 8,
        "max_new_tokens": NEW,
    }


def _forget(warm: WarmVLLM) -> None:
    """Clears the caches."""
    vars(warm.hf).pop("renderer", None)
    llm = _llm(warm)
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


def _prompts(count: int) -> list[Prompt]:
    from PIL import Image as PILImage

    from icl.images import Image
    from icl.streams import StreamKey
    from icl.types import Part, Turn

    def one(i: int) -> Prompt:
        image = Image.from_pil(PILImage.new("RGB", (64, 64), (i, 90, 255 - i)), f"color {i}")
        parts = (
            Part(image, spans.image(spans.QUERY)),
            Part(f"What is number {i} in this image?", spans.QUESTION),
        )
        return Prompt((Turn("user", parts),), StreamKey(0, f"q{i}"))

    return [one(i) for i in range(count)]


def _in_turn(runs: Sequence[Callable[[], None]], times: int = ROUNDS) -> list[list[float]]:
    """CPU seconds of each run in each round, with the garbage of the other runs collected before."""

    def collect() -> None:
        gc.collect()
        gc.freeze()  # so that later collections skip the objects of the other runs

    return cpu_rounds(runs, times, collect)


def _faster(slow: Sequence[float], fast: Sequence[float]) -> str:
    return with_spread(round_ratios(slow, fast))
