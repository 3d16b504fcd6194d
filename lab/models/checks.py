"""The checks of the Hugging Face backend on one twin.

prompts       the token ids of few-shot prompts are those of the processor's own `apply_chat_template`
answers       greedy tokens, with the penalty that the generation config asks for, are those of `generate` with it
options       log-probabilities of options equal `generate`, forced along the option
interleaved   demonstrations in one user turn stand in their places
quantized     greedy tokens with weights in nf4 are those of `generate` on the same weights
interventions an edit at each site arrives, and images and texts of a prompt have the right tokens
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from decoding.arms.arm import Arm, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from icl.errors import ICLError, ModelError
from icl.models.hf.model import HF
from icl.models.hf.text_processor import is_plain_text
from icl.types import Generation, Prompt
from lab.architectures import checks, inputs, recomputation
from lab.architectures.checks import check_named, verdict_of
from lab.architectures.inputs import NEW_TOKENS
from lab.architectures.verdicts import Entry, ReferenceAnswers, Verdict
from tests.random_models.conversations import conversation
from tests.random_models.site_checks import check_sites
from tests.random_models.twins.twin import twins

SITE_KINDS = ("residual", "heads")


def prompts() -> list[Prompt]:
    """Prompts of the composer `chat` with two, no and one demonstration."""
    made = inputs.prompts()
    return [made[0], made[1], made[3]]


def prompts_of(hf: HF) -> list[Prompt]:
    """`prompts`, or prompts of a single turn for a base model, which has no chat template."""
    made = inputs.prompts()
    return [made[5], made[1], made[5]] if is_plain_text(hf.checkpoint.processor.chat_template) else prompts()


def check_twin(name: str, folder: Path) -> Entry:
    """All checks of one twin, with its answers for the comparison with vLLM."""
    hf = HF(path=str(folder), dtype="float32", device="cpu")
    try:
        hf.load()
    except ICLError as error:
        return Entry(name, "", {}, {}, (str(error).replace(str(folder), twins()[name].model),))
    answers: dict[str, ReferenceAnswers] = {}
    try:
        verdicts = {
            "prompts": verdict_of(lambda: _prompts(hf)),
            "answers": verdict_of(lambda: _answers(hf, answers)),
            "options": verdict_of(lambda: recomputation.check_options(hf, prompts_of(hf)[:2])),
            "interleaved": _interleaved(hf),
            "quantized": verdict_of(lambda: _quantized(folder)),
            "interventions": verdict_of(lambda: _interventions(hf)),
        }
        kind = type(hf.engine.runner.model).__name__
        notes = (*hf.plan_notes, *hf.notes)
        return Entry(name, kind, verdicts, answers, tuple(note.replace(str(folder), name) for note in notes))
    finally:
        hf.unload()


def _ids(hf: HF, prompt: Prompt) -> Any:
    """The inputs of `generate`. Where a template prints typed content as a list, turns without images are strings."""
    processor, turns = hf.checkpoint.processor, conversation(prompt)
    printed = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if "{'type': 'text'" in printed:
        turns = [
            turn if any(item["type"] == "image" for item in turn["content"]) else turn | {"content": _joined(turn)}
            for turn in turns
        ]
    return inputs.processor_inputs(processor, turns, token_types=hf.engine.runner.token_types_name is not None)


def _joined(turn: dict[str, Any]) -> str:
    return "".join(item["text"] for item in turn["content"])


def _prompts(hf: HF) -> Verdict:
    counts = []
    for number, prompt in enumerate(prompts_of(hf)):
        expected = _ids(hf, prompt)["input_ids"][0]
        (read,) = hf.engine.prompt_encoder.read([prompt])
        if not torch.equal(read.ids, expected):
            return Verdict("no", f"prompt {number} has {len(read.ids)} tokens, and {len(expected)} of the processor")
        counts.append(len(read.ids))
    return Verdict("yes", f"{', '.join(map(str, counts))} tokens")


def greedy_arm(hf: HF) -> Arm:
    """Greedy decoding with the penalty of the generation config, which `generate` applies."""
    penalty = hf.checkpoint.generation.repetition_penalty or 1.0
    more = {} if penalty == 1.0 else {"logits_processors": [{"name": "repetition_penalty", "penalty": penalty}]}
    return parse_arm({"name": "greedy", **more})


def _generate(hf: HF, arm: Arm, chosen: Sequence[Prompt]) -> list[Generation]:
    results = run_requests(hf, [DecodingRequest(prompt, arm, max_new_tokens=NEW_TOKENS) for prompt in chosen])
    if failed := [one for one in results if isinstance(one, Failure)]:
        raise ModelError(failed[0].reason)
    return [one for one in results if isinstance(one, Generation)]


def _answers(hf: HF, answers: dict[str, ReferenceAnswers]) -> Verdict:
    """Compares answers with `generate`, and keeps those of the arms that vLLM repeats."""
    verdict = compare_with_generate(hf, greedy_arm(hf))
    for arm in ("greedy", "vcd"):
        answers[arm] = ReferenceAnswers.of(checks.generate(hf, arm, prompts_of(hf)))
    return verdict


def compare_with_generate(hf: HF, arm: Arm) -> Verdict:
    """Compares the greedy tokens of an arm with those of `generate` under the checkpoint's generation config."""
    total = 0
    chosen = prompts_of(hf)
    for number, (prompt, own) in enumerate(zip(chosen, _generate(hf, arm, chosen), strict=True)):
        tensors = _ids(hf, prompt)
        width = tensors["input_ids"].shape[1]
        with torch.inference_mode():
            whole = hf.engine.runner.model.generate(
                **tensors, generation_config=hf.checkpoint.generation, do_sample=False, max_new_tokens=NEW_TOKENS
            )
        expected = whole[0, width:].tolist()
        end = next((place for place, token in enumerate(expected) if token in hf.stop_tokens), len(expected))
        if list(own.tokens) != expected[:end]:
            return Verdict("no", f"the answer to prompt {number} differs from that of `generate`")
        total += end
    return Verdict("yes", f"{total} tokens")


def _interleaved(hf: HF) -> Verdict:
    try:
        return Verdict("yes", f"{hf.count_tokens(inputs.prompts()[5])} tokens")
    except ICLError as error:
        return Verdict("off", str(error))


def _quantized(folder: Path) -> Verdict:
    hf = HF(path=str(folder), dtype="float32", device="cpu", quantize="nf4")
    try:
        return compare_with_generate(hf, greedy_arm(hf))
    finally:
        hf.unload()


def _interventions(hf: HF) -> Verdict:
    _, short, long = prompts_of(hf)
    if problem := next(check_sites(hf, [short, long], SITE_KINDS), None):
        return Verdict("no", problem)
    verdict = check_named(hf, long)
    if verdict.word != "yes":
        return verdict
    return Verdict("yes", ", ".join(f"{kind} {len(hf.sites.all(kind))}" for kind in SITE_KINDS))
