"""A batch in bfloat16 chooses the tokens of its single prompts, wherever the two best logits are apart."""

from collections.abc import Iterator

from lab.gpu.check import Bench, BenchCheck, Figure


def run(bench: Bench) -> Iterator[Figure]:
    """Compares each step along the tokens of the single prompts."""
    from lab.gpu.workload import agreement, forced_logits, greedy_tokens, load_model, make_prompts

    count, length = (4, 8) if bench.is_quick else (8, 16)
    model = load_model(bench, bench.model("full"), dtype=bench.dtype)
    prompts = make_prompts(count)
    tokens = greedy_tokens(model, prompts, length)
    alone = forced_logits(model, prompts, tokens, 1)
    together = agreement(alone, forced_logits(model, prompts, tokens, count))
    yield Figure(
        f"{count} prompts of different lengths, {length} steps", together.describe(),
        "all equal, over 90 % decided", together.holds(),
    )  # fmt: skip
    yield Figure("notes of the model", "; ".join(model.notes) or "none")


CHECK = BenchCheck(
    4,
    "bfloat16, a batch against single prompts",
    "equal where the gap is over .05; over 90 % decided",
    2.0,
    run,
    needs=("hf",),
)
