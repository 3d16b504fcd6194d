"""The cost of the Hugging Face backend without a strategy: sessions, images, shared prefixes, options.

Ratios of one run on this machine, on the shipped model; `python -m lab.bench.engine [CHECKPOINT]` prints them.
Both sides of a ratio run in turn on one thread. Each ratio is the median over rounds of the ratio of CPU times, with
minimum and maximum.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from icl.edits import DiffusionNoise
from icl.models.hf.language_model import EncodedPrompt
from icl.models.hf.model import HF
from icl.models.hf.prefill import Prefiller
from icl.types import Prompt
from lab.bench import Row, one_thread
from lab.bench.decoding import BATCH, forget, processed, prompts_of
from lab.bench.timing import cpu_rounds, round_ratios, with_spread

NEW, ROUNDS = 32, 9


def rows(path: str = "tiny") -> Iterator[Row]:
    """All figures of this file."""
    with one_thread():
        model = HF(path=path, dtype="float32", device="cpu")
        model.load()
        for part in (_greedy, _images, _shared_prefixes, _copies, _options):
            yield from part(model)


def _greedy(model: HF) -> list[Row]:
    """A loop over a session against `generate`, from prompts: processor, vision tower, prefill and NEW tokens."""
    prompts = prompts_of(0)

    def ours(anew: bool) -> None:
        if anew:
            forget(model)
        session = model.open(prompts)
        for _ in range(NEW - 1):
            session.advance(session.logits.argmax(-1))

    def theirs() -> None:
        _generate(model, processed(model, prompts))

    cold = _ratios(theirs, lambda: ours(True))
    warm = _ratios(theirs, lambda: ours(False))
    what = f"greedy, batch {BATCH}, {NEW} tokens from prompts: speed over processor and generate"
    return [
        (f"{what}, no image seen before", with_spread(cold), ">= 0.95"),
        (f"{what}, images in the cache", with_spread(warm), ""),
    ]


def _images(model: HF) -> list[Row]:
    """Encoding prompts, with and without cached images."""
    prompts = prompts_of(1)
    model.open(prompts)

    def anew() -> None:
        inputs = processed(model, prompts)
        base = model.engine.runner.model.base_model
        names = model.engine.prompt_encoder.encoder.tower_names if model.engine.prompt_encoder.encoder else ()
        with torch.no_grad():
            base.get_image_features(**{k: v for k, v in inputs.items() if k in names}, return_dict=True)

    ratio = _ratios(lambda: model.engine.prompt_encoder.read(prompts), anew)
    before = model.counters()
    fresh = prompts_of(2)
    distinct = {image.digest for prompt in fresh for image in prompt.images}
    for _ in range(2):
        model.open(fresh)
    encoded = model.counters()["images_encoded"] - before["images_encoded"]
    return [
        ("prompts made ready with images in the cache: time over processor and tower", with_spread(ratio), ""),
        ("images encoded / distinct images", f"{encoded / len(distinct):.2f}", "1.00"),
    ]


def _shared_prefixes(model: HF) -> list[Row]:
    """Prefills of prompts with a common prefix, over prefills that share nothing."""
    counts = []
    own = prompts_of(3)
    fixed = [Prompt((*own[0].turns[:-1], prompt.turns[-1]), prompt.key) for prompt in own]
    noised = [prompt.edit(DiffusionNoise(), where="query") for prompt in own]
    for name, prompts in (("fixed demonstrations", fixed), ("two branches a query", [*own, *noised])):
        reads = model.engine.prompt_encoder.read(prompts)
        ratio = _ratios(lambda r=reads: _open(model, r, True), lambda r=reads: _open(model, r, False))  # type: ignore[misc]
        before = model.counters()["prefill_tokens"]
        _open(model, reads, True)
        tokens = (model.counters()["prefill_tokens"] - before) / sum(map(len, reads))
        goal = "<= 0.60" if name.startswith("two") else ""
        what = f"{name}, 8 shots: time of a prefill over one that shares nothing"
        counts.append((what, f"{with_spread(ratio)}, tokens {tokens:.2f}", goal))
    return counts


def _copies(model: HF) -> list[Row]:
    """Sixteen branches that differ in the query alone: bytes of their shared prefix, and of copies of it."""
    prompt = prompts_of(5)[0]
    reads = model.engine.prompt_encoder.read(
        [prompt, *(prompt.edit(DiffusionNoise(50 * i), "query") for i in range(1, 16))]
    )
    prefiller = Prefiller(model.engine.runner, model.engine.budgets.prefill_tokens)
    rows, one, every = prefiller.open(reads), _open(model, reads[:1], False), torch.arange(16)
    rows.advance(rows.logits.argmax(-1))
    copies = _open(model, reads, False)
    own = int(rows.mask.sum()) - 16 * prefiller.cached_prefixes[0].rows.width
    counts = f"{_bytes(rows) / _bytes(one):.1f}, copies {_bytes(copies) / _bytes(one):.1f}, of one branch's"
    steps = _ratios(lambda: _steps(rows.take(every)), lambda: _steps(copies.take(every)))
    what = "16 branches that share a beginning"
    return [
        (f"{what}, {own / 16:.0f} of {len(reads[0])} tokens their own: bytes of cache entries", counts, ""),
        (f"{what}: time of 8 steps over those of rows with copies", with_spread(steps), ""),
    ]


def _steps(rows: Any) -> None:
    for _ in range(8):
        rows.advance(rows.logits.argmax(-1))


def _bytes(rows: Any) -> int:
    """The bytes of the memory of the layers' tensors, each storage once."""
    tensors = [t for layer in rows.cache.layers for t in (layer.keys, layer.values, *(layer.buffers or ()))]
    tensors += [t for layer in rows.cache.layers if layer.prefix for t in (layer.prefix.keys, layer.prefix.values)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _options(model: HF) -> list[Row]:
    """Four short options scored on prefilled rows, over the prefill and over a forward per option."""
    prompts = prompts_of(4)
    reads = model.engine.prompt_encoder.read(prompts)
    session = _open(model, reads, False)
    words = [
        "a small red circle",
        "two blue squares",
        "yes",
        "a large green star on the left",
    ]
    options = [model.option_ids(prompt, words) for prompt in prompts]
    prefill = _ratios(lambda: session.suffix_logprobs(options), lambda: _open(model, reads, False))

    def each() -> None:
        for k in range(len(words)):
            rows = _open(model, reads, False)
            rows.suffix_logprobs([[own[k]] for own in options])

    whole = _ratios(lambda: session.suffix_logprobs(options), each)
    return [
        (
            "4 options scored on prefilled rows: time over the prefill",
            f"{with_spread(prefill)}, of a prefill each: {with_spread(whole)}",
            "",
        )
    ]


def _open(model: HF, reads: Sequence[EncodedPrompt], sharing: bool) -> Any:
    return Prefiller(model.engine.runner, model.engine.budgets.prefill_tokens, sharing).open(reads)


def _generate(model: HF, inputs: dict[str, Any]) -> None:
    never = model.engine.runner.model.get_input_embeddings().num_embeddings
    model.engine.runner.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=never)


def _ratios(one: Callable[[], object], other: Callable[[], object]) -> list[float]:
    """CPU time of `one` over that of `other`, in each round."""
    return round_ratios(*cpu_rounds([one, other], ROUNDS))


def main() -> None:
    """Prints the table."""
    for what, figure, goal in rows(*sys.argv[1:2]):
        print(f"{what:98} {figure:48} {goal}")


if __name__ == "__main__":
    main()
