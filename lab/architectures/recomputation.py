"""Checks of one checkpoint against recomputation by `generate` of transformers, a branch and an option at a time.

branches   every token of vcd and cad is the best of the combination of logits of branches that `generate` reads alone
options    log-probabilities of options are those of `generate`, forced along the option
prefix     prompts on a shared prefix have the logits of prompts that are read whole
attention  greedy tokens with eager attention equal those with the default
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin, LogitsProcessor

from decoding.arms.arm import parse_arm
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.hf.prefill import Prefiller
from icl.models.hf.prompt_encoding import PromptEncoder
from icl.types import Prompt
from lab.architectures.inputs import prompts
from lab.architectures.verdicts import ReferenceAnswers, Verdict, compare_tokens

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 1e-3
"""The largest difference of a logit; their standard deviation is about 1."""
CAD: dict[str, Any] = {"name": "cad", "alpha": 1.0}
"""Contrast with the prompt without demonstrations, which has fewer images."""
CHOSEN = (0, 3, 5)
"""Prompts with demonstrations."""
BUDGET = 10**6
"""Padded tokens of a prefill."""
OPTIONS = ((40,), (50, 60), (50, 61, 62))


class ForcedTokens(LogitsProcessor):  # type: ignore[misc]
    """A logits processor under which `generate` writes given tokens. width: length of the prompt."""

    def __init__(self, tokens: Sequence[int], width: int) -> None:
        self.tokens, self.width = tokens, width

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens[input_ids.shape[1] - self.width]] = 0
        return forced


def check_branches(hf: HF, arms: Mapping[str, tuple[Mapping[str, Any], Sequence[Sequence[int]]]]) -> Verdict:
    """Whether each token of strategies is the best of the recomputed scores.

    Args:
        hf: The checkpoint.
        arms: For each strategy, its parameters and its answers to `CHOSEN` prompts.
    """
    skipped, total, all_prompts = [], 0, prompts()
    for name, (parameters, answers) in arms.items():
        strategy = parse_arm(parameters).strategy
        for number, tokens in zip(CHOSEN, answers, strict=True):
            try:
                logits = [forced_logits(hf, branch, tokens) for branch in strategy.branches(all_prompts[number])]
            except ModelError:  # edits of processed pixels need images that can be told apart
                skipped.append(name)
                break
            for step, token in enumerate(tokens):
                branches = torch.stack([branch[step : step + 1] for branch in logits])
                scores, mask = strategy.combine(branches, step), strategy.mask(branches[0])
                best = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
                if int(best.argmax()) != token:
                    return Verdict("no", f"{name}, prompt {number}: recomputed scores prefer another token {step}")
                total += 1
    if total == 0:
        return Verdict("no", "no branch could be recomputed")
    return Verdict("yes", f"{total} tokens" + (f", without {', '.join(skipped)}" if skipped else ""))


def check_options(hf: HF, chosen: Sequence[Prompt] = ()) -> Verdict:
    """Log-probabilities of options of several lengths after these prompts, by default the `CHOSEN` ones."""
    chosen = chosen or [prompts()[number] for number in CHOSEN]
    scored = hf.open(chosen).suffix_logprobs([OPTIONS] * len(chosen))
    gap = 0.0
    for prompt, row in zip(chosen, scored, strict=True):
        for option, logprobs in zip(OPTIONS, row, strict=True):
            expected = forced_logits(hf, prompt, option).log_softmax(-1)
            gap = max(gap, float((logprobs - expected).abs().max()))
    return Verdict("yes" if gap <= CLOSE else "no", f"log-probabilities within {gap:.0e}")


def check_prefix(hf: HF) -> Verdict:
    """Two queries with the same demonstrations."""
    if not hf.engine.shares_prefix:
        note = next((note for note in hf.notes if "prefixes" in note), "")
        return Verdict("off", note or "prefixes are not shared: the image cache is off, or states are recurrent")
    first, second, third = prompts()[0], prompts()[1], prompts()[4]
    shared = [Prompt((*first.turns[:-1], *query.turns)) for query in (second, third)]
    encoded = hf.engine.prompt_encoder.read(shared)
    whole = Prefiller(hf.engine.runner, BUDGET, sharing=False).open(encoded)
    counters = hf.engine.runner.counters
    before = counters.prefill_tokens
    rows = Prefiller(hf.engine.runner, BUDGET, least=1).open(encoded)
    saved = sum(map(len, encoded)) - (counters.prefill_tokens - before)
    gap = 0.0
    for _ in range(3):
        gap = max(gap, float((whole.logits - rows.logits).abs().max()))
        tokens = whole.logits.argmax(-1)
        whole.advance(tokens)
        rows.advance(tokens)
    if saved <= 0:
        return Verdict("no", "nothing was shared")
    return Verdict("yes" if gap <= CLOSE else "no", f"logits within {gap:.0e}, {saved} tokens saved")


def check_attention(hf: HF, folder: Path, greedy: ReferenceAnswers) -> Verdict:
    """Greedy tokens with eager attention. greedy: the answers with the default."""
    from lab.architectures.checks import generate

    default = str(hf.engine.runner.model.config.get_text_config()._attn_implementation)
    eager = HF(path=str(folder), dtype="float32", device="cpu", attn_implementation="eager")
    try:
        answers = generate(eager, "greedy", prompts())
        verdict = compare_tokens([answer.tokens for answer in answers], greedy)
        return Verdict(verdict.word, f"{verdict.why}; the default is {default}")
    finally:
        eager.unload()


def forced_logits(hf: HF, prompt: Prompt, tokens: Sequence[int]) -> "Tensor":
    """Logits [n, V] before each of n tokens, by `generate` on the processor's inputs of this prompt alone."""
    runner = hf.engine.runner
    (read,) = PromptEncoder(hf.renderer, hf.pixels, runner, None).read([prompt])
    inputs: dict[str, Any] = {"input_ids": read.ids[None], "attention_mask": torch.ones_like(read.ids)[None]}
    inputs |= read.plain or {}
    if read.token_types is not None and runner.token_types_name is not None:
        inputs[runner.token_types_name] = read.token_types[None]
    with torch.inference_mode():
        output = GenerationMixin.generate(  # Janus' own ignores logits processors
            runner.model,
            **inputs,
            do_sample=False,
            max_new_tokens=len(tokens),
            logits_processor=[ForcedTokens(tokens, len(read.ids))],
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.cat(output.logits).float()
