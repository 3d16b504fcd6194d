"""The checks of the Hugging Face backend on one checkpoint.

generate   greedy tokens of the token loop for each prompt alone equal those of `generate` of transformers, on the
           inputs of the processor's own `apply_chat_template`
batch      tokens and logits of prompts in one batch equal those of each prompt alone
cache      logits with cached images equal those of the processor on the whole prompt
identity   contrastive decoding with strength 0 equals greedy decoding, although its other branch differs
sites      the checks of `tests.random_models.site_checks` at every site of the decoder that the class has
named      another image in place of one changes what the decoder reads at tokens of this image alone, and the tokens
           of a named text decode to it
gradients  the loss of an answer equals that of the session, and its gradient the finite difference along it

The others are in `recomputation`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.interventions.edits import VectorEdit
from decoding.interventions.trainable import unnamed
from icl.edits import Blank
from icl.errors import ICLError, ModelError
from icl.models.hf.model import HF
from icl.models.interventions import Where, steer
from icl.types import Generation, Part, Prompt
from lab.architectures import recomputation
from lab.architectures.inputs import NEW_TOKENS, processor_inputs, prompts
from lab.architectures.verdicts import Entry, ReferenceAnswers, Verdict
from tests.random_models.conversations import conversation
from tests.random_models.site_checks import KINDS, check_sites

if TYPE_CHECKING:
    from torch import Tensor

CLOSE = 1e-3
"""The largest difference of a logit; their standard deviation is about 1."""

ARMS: dict[str, Any] = {
    "greedy": "greedy",
    "vcd": {"name": "vcd", "images": "all", "noise_step": 999},
    "cad": recomputation.CAD,
    "identity": {"name": "vcd", "images": "all", "noise_step": 999, "alpha": 0.0, "beta": 0.0},
}


def check_hf(name: str, folder: Path) -> Entry:
    """All checks of one checkpoint, with its answers for the comparison with vLLM."""
    hf = HF(path=str(folder), dtype="float32", device="cpu")
    try:
        hf.load()
    except ICLError as error:
        return Entry(name, "", {}, {}, (f"not loaded: {error}",))
    try:
        all_prompts = prompts()
        answers: dict[str, ReferenceAnswers] = {}
        verdicts = {
            "generate": verdict_of(lambda: _generate(hf, all_prompts, answers)),
            "batch": verdict_of(lambda: _batch(hf, all_prompts, answers)),
            "cache": verdict_of(lambda: _cache(hf, all_prompts)),
            "identity": verdict_of(lambda: _identity(hf, all_prompts, answers)),
            "branches": verdict_of(lambda: _branches(hf, all_prompts)),
            "prefix": verdict_of(lambda: recomputation.check_prefix(hf)),
            "options": verdict_of(lambda: recomputation.check_options(hf)),
            "attention": verdict_of(lambda: recomputation.check_attention(hf, folder, answers["greedy"])),
            "sites": verdict_of(lambda: _sites(hf, all_prompts)),
            "named": verdict_of(lambda: check_named(hf, all_prompts[0])),
            "gradients": verdict_of(lambda: check_gradients(hf, all_prompts[1])),
        }
        kind = type(hf.engine.runner.model).__name__
        return Entry(name, kind, verdicts, answers, tuple(note.replace(str(folder), name) for note in hf.notes))
    finally:
        hf.unload()


def check_named(hf: HF, prompt: Prompt) -> Verdict:
    """Whether parts of a prompt have the right tokens. prompt: with demonstrations, and one image each."""
    (read,) = hf.engine.prompt_encoder.read([prompt])
    ids = read.ids.tolist()
    for part in prompt.parts():
        if part.text and part.name:
            [(begin, end)] = hf.span_tokens([prompt], [part.name])[0][part.name]
            if (text := hf.tokenizer.decode(ids[begin:end])).strip() != part.text.strip():
                return Verdict("no", f"the tokens of {part.name} are '{text}'")
    if problem := hf.image_token_problem:
        return Verdict("off", problem)
    counts, before = [], _decoder_input(hf, prompt)
    for part in prompt.parts():
        if part.image is None:
            continue
        own = {
            token for begin, end in hf.span_tokens([prompt], [part.name])[0][part.name] for token in range(begin, end)
        }
        after = _decoder_input(hf, prompt.map(partial(_blanked, name=part.name)))
        changed = set((after != before).any(-1).nonzero()[:, 0].tolist())
        if not changed or not changed <= own:
            return Verdict("no", f"another image for {part.name} changes {len(changed - own)} tokens outside of it")
        counts.append(len(own))
    return Verdict("yes", f"images of {', '.join(map(str, counts))} tokens")


def _blanked(part: Part, name: str) -> Part:
    return replace(part, content=part.image.edit(Blank())) if part.image is not None and part.name == name else part


def _decoder_input(hf: HF, prompt: Prompt) -> "Tensor":
    """What the lowest layer of the decoder reads: [tokens, …]. Several residual streams [streams, 1, tokens, d] are
    joined.
    """
    states: list[Tensor] = []

    def remember(module: Any, args: Any, kwargs: Any) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    handle = hf.sites.layers[0].register_forward_pre_hook(remember, with_kwargs=True)
    try:
        hf.engine.runner.prefill(hf.engine.prompt_encoder.read([prompt]))
    finally:
        handle.remove()
    (state,) = states
    return state[:, 0].movedim(0, 1).flatten(1) if state.ndim == 4 and state.shape[1] == 1 else state[0]


def check_gradients(hf: HF, prompt: Prompt) -> Verdict:
    """Whether a vector added to all states of the lowest layer with that site has the right loss and gradient."""
    from icl.models.hf.gradients import answer_loss, encode_answers

    sites = hf.sites.all("residual") or hf.sites.all("mlp") or hf.sites.all("attention")
    if not sites:
        return Verdict("off", "the class has no site for a vector")
    answer = "red one"
    vector = 0.3 * torch.randn(hf.sites.width, generator=torch.Generator().manual_seed(1))

    def edit(vector: "Tensor") -> VectorEdit:
        return VectorEdit({sites[0]: vector}, "add", where=Where("all", "both"))

    items, ids = encode_answers(hf, [prompt], [answer]), hf.option_ids(prompt, [answer])[0]
    by_token = hf.open([steer(prompt, edit(vector))]).suffix_logprobs([[ids]])[0][0]
    gap = abs(
        float(answer_loss(hf, items, [edit(vector)])) + float(by_token.gather(1, torch.tensor(ids)[:, None]).mean())
    )
    learned = vector.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(answer_loss(hf, items, [unnamed(edit(learned))]), [learned])
    step = 0.02 * gradient / gradient.norm()
    ends = [float(answer_loss(hf, items, [edit(vector + sign * step)])) for sign in (1, -1)]
    slope, norm = (ends[0] - ends[1]) / 0.04, float(gradient.norm())
    is_right = gap <= CLOSE and abs(slope - norm) <= 0.05 * norm
    return Verdict("yes" if is_right else "no", f"losses within {gap:.0e}, gradient {norm:.3f}, difference {slope:.3f}")


def generate(hf: HF, arm: str, all_prompts: Sequence[Prompt]) -> list[Generation]:
    """The answers of one arm. Raises ModelError if a prompt has none."""
    jobs = [DecodingRequest(prompt, parse_arm(ARMS[arm]), max_new_tokens=NEW_TOKENS) for prompt in all_prompts]
    model: Any = hf
    answers = run_requests(model, jobs)
    for answer in answers:
        if isinstance(answer, Failure):
            raise ModelError(answer.reason)
    return [answer for answer in answers if isinstance(answer, Generation)]


def _generate(hf: HF, all_prompts: Sequence[Prompt], answers: dict[str, ReferenceAnswers]) -> Verdict:
    alone = [generate(hf, "greedy", [prompt])[0] for prompt in all_prompts]
    answers["greedy"] = ReferenceAnswers.of(alone)
    for i, (prompt, own) in enumerate(zip(all_prompts, alone, strict=True)):
        inputs = processor_inputs(
            hf.checkpoint.processor, conversation(prompt), token_types=hf.engine.runner.token_types_name is not None
        )
        width = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            whole = hf.engine.runner.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        expected = whole[0, width:].tolist()
        if (got := hf.count_tokens(prompt)) != width:
            return Verdict("no", f"prompt {i} is counted as {got} tokens and has {width}")
        end = next((place for place, token in enumerate(expected) if token in hf.stop_tokens), len(expected))
        if list(own.tokens) != expected[:end]:
            place = next(k for k, (a, b) in enumerate(zip([*own.tokens, -1], expected, strict=False)) if a != b)
            return Verdict("no", f"prompt {i} differs from generate at token {place}")
    return Verdict("yes", f"{sum(len(one.tokens) for one in alone)} tokens")


def _batch(hf: HF, all_prompts: Sequence[Prompt], answers: dict[str, ReferenceAnswers]) -> Verdict:
    gap = _gap(hf.open(all_prompts).logits, torch.cat([hf.open([prompt]).logits for prompt in all_prompts]))
    if gap > CLOSE:
        return Verdict("no", f"logits differ by up to {gap:.1e}")
    together = [list(one.tokens) for one in generate(hf, "greedy", all_prompts)]
    is_equal = together == [list(tokens) for tokens in answers["greedy"].tokens]
    return Verdict("yes" if is_equal else "no", f"logits within {gap:.0e}")


def _cache(hf: HF, all_prompts: Sequence[Prompt]) -> Verdict:
    from icl.models.hf.prompt_encoding import PromptEncoder

    if hf.engine.prompt_encoder.encoder is None:
        return Verdict("off", "the cache is off")
    plain = PromptEncoder(hf.renderer, hf.pixels, hf.engine.runner, None)
    worst = 0.0
    for prompt in all_prompts:
        (read,) = plain.read([prompt])
        worst = max(worst, _gap(hf.engine.runner.prefill([read]).logits, hf.open([prompt]).logits))
    return Verdict("yes" if worst <= CLOSE else "no", f"logits within {worst:.0e}")


def _identity(hf: HF, all_prompts: Sequence[Prompt], answers: dict[str, ReferenceAnswers]) -> Verdict:
    answers["vcd"] = ReferenceAnswers.of(generate(hf, "vcd", all_prompts))
    strategy = parse_arm(ARMS["identity"]).strategy
    branches = [hf.open([strategy.branches(prompt)[b] for prompt in all_prompts]).logits for b in (0, 1)]
    if _gap(*branches) < 0.1:
        return Verdict("no", "noise on the images does not change the logits")
    is_equal = [one.tokens for one in generate(hf, "identity", all_prompts)] == list(answers["greedy"].tokens)
    return Verdict("yes" if is_equal else "no", "")


def _sites(hf: HF, all_prompts: Sequence[Prompt]) -> Verdict:
    counts = {kind: len(hf.sites.all(kind)) for kind in KINDS}
    if problem := next(check_sites(hf, [all_prompts[number] for number in recomputation.CHOSEN]), None):
        return Verdict("no", problem)
    return Verdict("yes", ", ".join(f"{kind} {count}" for kind, count in counts.items()))


def _branches(hf: HF, all_prompts: Sequence[Prompt]) -> Verdict:
    chosen = [all_prompts[number] for number in recomputation.CHOSEN]
    arms = {arm: (ARMS[arm], [one.tokens for one in generate(hf, arm, chosen)]) for arm in ("vcd", "cad")}
    return recomputation.check_branches(hf, arms)


def _gap(one: "Tensor", other: "Tensor") -> float:
    return float((one - other).abs().max())


def verdict_of(ask: Callable[[], Verdict]) -> Verdict:
    """The verdict of a check. An exception is a verdict too, because the model's code is not ours."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return Verdict("no", first if isinstance(error, ICLError) else f"{type(error).__name__}: {first}")
