"""The checks of vLLM on the same checkpoints, compared with the Hugging Face backend.

vllm      greedy tokens of ordinary requests equal those of the token loop, from the same token ids
lockstep  tokens of contrastive decoding inside the engine equal those of the token loop

Steps with a margin below CLOSE may differ between engines, and below CLOSE_16_BIT where vLLM has kernels for bfloat16
alone; answers are compared up to there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest, Failure
from icl.types import Prompt
from lab.architectures.checks import ARMS
from lab.architectures.inputs import NEW_TOKENS
from lab.architectures.verdicts import CLOSE, CLOSE_16_BIT, Entry, ReferenceAnswers, Verdict, compare_tokens

COLUMNS = {"vllm": "greedy", "lockstep": "vcd"}
"""The arm of each column."""


def check_vllm(entry: Entry, folder: Path, all_prompts: Sequence[Prompt], *, max_model_len: int) -> dict[str, Verdict]:
    """The verdicts of vLLM, which must be installed. An exception of it is the verdict."""
    from icl.models.hf.checkpoint import Checkpoint, max_tokens
    from icl.models.vllm.model import VLLM

    missing = [arm for arm in COLUMNS.values() if arm not in entry.answers]
    if missing:
        return dict.fromkeys(COLUMNS, Verdict("not run", "the Hugging Face backend has no answers to compare with"))
    model: VLLM | None = None
    try:
        length = min(max_model_len, max_tokens(Checkpoint(str(folder)).config) or max_model_len)
        model = VLLM(str(folder), max_model_len=length, max_images=4, cache_gib=0.25)
        model.load()
        return {column: _compare_arm(model, arm, entry.answers[arm], all_prompts) for column, arm in COLUMNS.items()}
    except Exception as error:  # noqa: BLE001
        return dict.fromkeys(COLUMNS, Verdict("no", first_line(error)))
    finally:
        if model is not None:
            model.unload()


def _compare_arm(model: Any, arm: str, reference: ReferenceAnswers, all_prompts: Sequence[Prompt]) -> Verdict:
    from decoding.lockstep.engine import run_requests

    jobs = [DecodingRequest(prompt, parse_arm(ARMS[arm]), max_new_tokens=NEW_TOKENS) for prompt in all_prompts]
    results = run_requests(model, jobs, trace=False)
    fail = [answer.reason for answer in results if isinstance(answer, Failure)]
    whole = [i for i, answer in enumerate(results) if not isinstance(answer, Failure)]
    tokens = [answer.tokens for answer in results if not isinstance(answer, Failure)]
    close = CLOSE if model.precision == "float32" else CLOSE_16_BIT
    verdict = compare_tokens(tokens, reference.only(whole), close)
    if not fail or (whole and verdict.word == "no"):
        return verdict
    rest = f" The other answers ({len(whole)} of {len(results)}) equal the loop's." if whole else ""
    return Verdict("no", f"{fail[0].rstrip('.')}.{rest}")


def first_line(error: BaseException) -> str:
    """The first line of the innermost cause, of a config's first problem without the frame around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    problems = getattr(error, "errors", None)
    text = str(problems()[0]["msg"]) if callable(problems) else str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"
