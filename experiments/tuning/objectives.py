"""The losses of a batch of episodes: `sft`, the preferences of `dpo` and `realign`, `distill` and `cal`.

    sft             cross-entropy of the answers, a mean over the step's answer tokens
    dpo, realign    preference of the answer over its alternatives (`experiments.tuning.episodes`), a mean over the
                    step's episodes, + sft_weight x sft
    distill         KL(base model with demonstrations || trained model without them), a mean over the step's answer
                    tokens, + sft_weight x sft. Vectors that are made of demonstrations read them on both sides
    cal             sft, in which the tokens of an answer have the weights of CAL (`cal_weights`) under the base model,
                    times their number
    cal_permuted    the control of cal: each answer's weights move by half its length, to other tokens

`dpo` is as SymDPO trains (Jia et al., CVPR 2025). SymDPO's pairs are episodes of the transform `symbols`: both answers
are symbols, and only the demonstrations tell which is right. The base model is the model with the adapter off.

Differs from the released code in its data: there the pairs are made ahead from other data sets. `cal` differs in the
model of its weights (there the one that trains), in its scores (there raw logits, which a constant moves), in
pooling (there across the ends of answers), and in the normalization (there over the batch, here in each answer).

The forward pass has gradients. A session cannot train: it computes without gradients and writes its cache in place. The
prompts are the same token ids, positions and image features that a session prefills, and the answer's tokens follow as
a session would decode them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from decoding import remove_demonstrations
from experiments.config.keys import TuneSpec
from experiments.tuning.episodes import Episode
from experiments.tuning.trained_parts import TrainedPart
from icl import ModelError, Prompt
from icl.models.hf import HF, EncodedImage, EncodedPrompt, LanguageModel, keep_columns, row_edit, vision_arguments

IGNORED = -100
"""Target of a position without a loss, as in `torch.nn.functional.cross_entropy`."""

AnsweredPrompt = tuple[EncodedPrompt, int]
"""A prompt with its answer and the end token, as model inputs; and the number of tokens of the two."""

ImageFeatures = Callable[[Sequence[EncodedImage]], Sequence[EncodedImage]]


@dataclass(frozen=True, eq=False)
class EncodedStep:
    """The episodes of a step as model inputs.

    Attributes:
        chosen: Each prompt with its answer.
        alternatives: For each number of an alternative, the alternatives of all episodes. Of `distill`: what the base
            model reads.
    """

    chosen: Sequence[AnsweredPrompt]
    alternatives: Sequence[Sequence[AnsweredPrompt]] = ()

    @property
    def answer_tokens(self) -> int:
        return sum(count for _, count in self.chosen)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return sum(len(read) for read, _ in chain(self.chosen, *self.alternatives))


@dataclass(frozen=True)
class Objective:
    """A value of `tune.objective`.

    Attributes:
        encode: The episodes, which have equally many alternatives, as model inputs. Raises ModelError.
        loss: The share of the step's loss that some of its episodes have, a scalar with gradients.
    """

    encode: Callable[[HF, TrainedPart, Sequence[Episode]], EncodedStep]
    loss: Callable[[LanguageModel, TrainedPart, TuneSpec, EncodedStep, slice], Tensor]


def encode_step(model: HF, part: TrainedPart, spec: TuneSpec, episodes: Sequence[Episode]) -> EncodedStep:
    """The episodes, which have equally many alternatives, as model inputs. Raises ModelError."""
    return OBJECTIVES[spec.objective].encode(model, part, episodes)


def chunk_loss(runner: LanguageModel, part: TrainedPart, spec: TuneSpec, step: EncodedStep, start: int) -> Tensor:
    """The share of the step's loss that the `spec.rows` episodes from `start` on have, a scalar with gradients."""
    return OBJECTIVES[spec.objective].loss(runner, part, spec, step, slice(start, start + spec.rows))


def _with_alternatives(model: HF, part: TrainedPart, episodes: Sequence[Episode]) -> EncodedStep:
    prompts, answers = [one.prompt for one in episodes], [one.answer for one in episodes]
    alternatives = zip(*(one.alternatives for one in episodes), strict=True)
    columns = [encode_answered(model, *map(list, zip(*pairs, strict=True))) for pairs in alternatives]
    return EncodedStep(encode_answered(model, part.prompts(prompts), answers), columns)


def _with_teachers(model: HF, part: TrainedPart, episodes: Sequence[Episode]) -> EncodedStep:
    """The prompts without demonstrations, and with them for the base model."""
    prompts, answers = [one.prompt for one in episodes], [one.answer for one in episodes]
    students = prompts if part.reads_demonstrations else [remove_demonstrations(one) for one in prompts]
    return EncodedStep(
        encode_answered(model, part.prompts(students), answers), [encode_answered(model, prompts, answers)]
    )


def _supervised(runner: LanguageModel, part: TrainedPart, spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    logits, targets = answer_logits(runner, step.chosen[chosen], part.image_features)
    return answer_loss(logits, targets)[0] / step.answer_tokens


def _preferred(runner: LanguageModel, part: TrainedPart, spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    own = step.chosen[chosen]
    rows = [*own, *chain.from_iterable(each[chosen] for each in step.alternatives)]
    with torch.no_grad(), part.disabled():
        base = sequence_logprobs(*answer_logits(runner, rows, part.image_features))
    logits, targets = answer_logits(runner, rows, part.image_features)
    tuned, count = sequence_logprobs(logits, targets), len(own)
    preference = preference_loss(tuned.view(-1, count), base.view(-1, count), spec.beta) / len(step.chosen)
    return preference + spec.sft_weight * answer_loss(logits[:count], targets[:count])[0] / step.answer_tokens


def _distilled(runner: LanguageModel, part: TrainedPart, spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    [teachers] = step.alternatives
    with torch.no_grad(), part.disabled():
        teacher, expected = answer_logits(runner, teachers[chosen], part.image_features)
    logits, targets = answer_logits(runner, step.chosen[chosen], part.image_features)
    if not torch.equal(targets, expected):
        raise ModelError(
            "tune.objective: an answer has other tokens after demonstrations than without them, so `distill` cannot "
            "compare them. Use a composer or template that ends prompts alike, such as composer: chat, or objective: "
            "sft."
        )
    loss = distillation_loss(logits, teacher, targets) + spec.sft_weight * answer_loss(logits, targets)[0]
    return loss / step.answer_tokens


def _visual(runner: LanguageModel, part: TrainedPart, spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    own = step.chosen[chosen]
    with torch.no_grad(), part.disabled():
        pairs = [*own, *step.alternatives[0][chosen]]
        logits, tokens = answer_logits(runner, pairs, part.image_features)
    targets, without = tokens.chunk(2)
    if not torch.equal(targets, without):
        raise ModelError(
            "tune.objective: an answer has other tokens without the query's images, so `cal` cannot compare them. Use "
            "objective: sft."
        )
    real, blind = token_logprobs(logits, tokens).chunk(2)
    logits, answered = answer_logits(runner, own, part.image_features)[0], targets != IGNORED
    weights = cal_weights(real - blind, answered) * answered.sum(-1, keepdim=True)
    if spec.objective == "cal_permuted":
        weights = half_turned(weights, answered)
    return -(weights * token_logprobs(logits, targets)).sum() / step.answer_tokens


OBJECTIVES: Mapping[str, Objective] = {
    "sft": Objective(_with_alternatives, _supervised),
    "dpo": Objective(_with_alternatives, _preferred),
    "realign": Objective(_with_alternatives, _preferred),
    "distill": Objective(_with_teachers, _distilled),
    "cal": Objective(_with_alternatives, _visual),
    "cal_permuted": Objective(_with_alternatives, _visual),
}
"""Value of `tune.objective` -> its inputs and its loss."""


def answer_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Sum of the cross-entropy of the answers' tokens (supervised fine-tuning).

    Args:
        logits: [R, W, V], the scores of the token at each position, from the position before it.
        targets: [R, W], the tokens. Positions outside an answer have `IGNORED`.

    Returns:
        The sum in nats, a float32 scalar, and the number of tokens.
    """
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, int((targets != IGNORED).sum())


def sequence_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each answer: [R] float32 in nats, the sum over its tokens. Arguments as `answer_loss`."""
    return token_logprobs(logits, targets).sum(-1)


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each token: [R, W] float32 in nats, 0 outside answers. Arguments as `answer_loss`."""
    return -F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none")


LOWEST, HIGHEST = 1.0, 5.0
"""Bounds of CAL's scores in the paper. With 1 as lower bound no token is dropped."""


def cal_weights(scores: Tensor, counts: Tensor) -> Tensor:
    """The weight of each token in the loss of its row, from how much it depends on the image.

    CAL (Xiao et al., NeurIPS 2024, 2405.17871):

        s_t = log p(y_t | image, y_<t) - log p(y_t | no image, y_<t)
        w_t = mean over t and its two neighbors of clamp(s, 1, 5), over the sum of the row

    Args:
        scores: [R, T] visual correlation of each token in nats.
        counts: [R, T] bool, the tokens of answers. Others have no weight and are no neighbors.

    Returns:
        [R, T]. Each row with a token sums to one.
    """
    bounded = torch.where(counts, scores.clamp(LOWEST, HIGHEST), 0.0)
    pooled = [F.avg_pool1d(x[:, None], 3, stride=1, padding=1)[:, 0] for x in (bounded, counts.to(scores.dtype))]
    means = torch.where(counts, pooled[0] / pooled[1].clamp(min=1 / 3), 0.0)
    return means / means.sum(-1, keepdim=True).clamp(min=torch.finfo(means.dtype).tiny)


def half_turned(weights: Tensor, counts: Tensor) -> Tensor:
    """The weights of each answer, rotated by half the answer's length.

    Args:
        weights: [R, T].
        counts: [R, T] bool, the tokens of answers, which end their rows.
    """
    moved = torch.zeros_like(weights)
    for row, own, start in zip(moved, weights, counts.logical_not().sum(-1).tolist(), strict=True):
        row[start:] = own[start:].roll((len(own) - start) // 2)
    return moved


def dpo_loss(chosen: Tensor, rejected: Tensor, base_chosen: Tensor, base_rejected: Tensor, beta: float) -> Tensor:
    """Sum over pairs of the loss of direct preference optimization (Rafailov et al., NeurIPS 2023, equation 7).

    - log sigmoid(beta [(chosen - base_chosen) - (rejected - base_rejected)])

    Args:
        chosen: [N], log-probabilities of the right answers under the model that trains.
        rejected: [N], of the wrong answers.
        base_chosen: [N], of the right answers under the base model.
        base_rejected: [N], of the wrong answers under the base model.
        beta: Weight of the distance from the base model.
    """
    return -F.logsigmoid(beta * ((chosen - base_chosen) - (rejected - base_rejected))).sum()


def preference_loss(tuned: Tensor, base: Tensor, beta: float) -> Tensor:
    """Sum over episodes and alternatives of `dpo_loss`. Log-probabilities of a right answer and its alternatives.

    With one alternative it is DPO. With two, the answer of another image y' and the answer y to the other image v', it
    is Re-Align (Xing et al., 2025): lr(y | v) is log p(y | v) - log p0(y | v),

        - log sigmoid(beta [lr(y | v) - lr(y' | v)]) - log sigmoid(beta [lr(y | v) - lr(y | v')])

    Args:
        tuned: [1 + A, N], under the model that trains, the right answers first.
        base: [1 + A, N], under the base model.
        beta: Weight of the distance from the base model.
    """
    pairs = zip(tuned[1:], base[1:], strict=True)
    return torch.stack([dpo_loss(tuned[0], other, base[0], base_other, beta) for other, base_other in pairs]).sum()


def distillation_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Sum over the answers' tokens of KL(teacher || student), in nats.

    Args:
        student: [R, W, V], logits of the model that trains.
        teacher: [R, W, V], logits of the model that it shall follow.
        targets: [R, W]. Positions outside an answer have `IGNORED`.
    """
    own, other = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    each = F.kl_div(own, other, log_target=True, reduction="none").sum(-1)
    return (each * (targets != IGNORED)).sum()


def learning_rate(step: int, steps: int, top: float, warmup: float) -> float:
    """The rate of a step: it rises linearly over the warm-up and then falls linearly to 0 after the last step.

    Args:
        step: Number of the step, from 0.
        steps: All steps.
        top: The largest rate.
        warmup: Share of the steps in which the rate rises.
    """
    rising = round(warmup * steps)
    if step < rising:
        return top * (step + 1) / rising
    return top * (steps - step) / max(1, steps - rising)


def end_token(model: HF) -> int:
    """The token that ends an answer: the tokenizer's own, if it ends answers of this model."""
    own = model.tokenizer.eos_token_id
    return int(own if own in model.stop_tokens else min(model.stop_tokens))


def encode_images_repeatably(model: HF) -> None:
    """Lets the features of an image depend on the image alone. After an interruption, others are encoded with it."""
    prompt_encoder = model.engine.prompt_encoder
    if not prompt_encoder.by_parts:
        raise ModelError(f"model.path: {model.path} cannot be tuned, because its image cache is off (icl doctor).")
    if prompt_encoder.encoder is not None:
        prompt_encoder.encoder.is_repeatable = True


def encode_answered(model: HF, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[AnsweredPrompt]:
    """Each prompt with its answer and the end token, as model inputs; and the number of tokens of the two.

    Interventions of the prompts act in `answer_logits`.

    Raises:
        ModelError: An answer has no tokens of its own, or the model lacks a site of an intervention.
    """
    encoder, end = model.engine.prompt_encoder, end_token(model)
    bare = [model.before_answer(replace(prompt, interventions=())) for prompt in prompts]
    rows = []
    for row, (prompt, answer, read) in enumerate(zip(prompts, answers, encoder.read(bare), strict=True)):
        tokens = [*model.option_ids(bare[row], [answer])[0], end]
        edits = tuple(row_edit(encoder, acts, bare[row], read, row) for acts in prompt.interventions)
        rows.append((replace(_with_tokens(read, tokens), edits=edits), len(tokens)))
    return rows


def answer_logits(
    runner: LanguageModel, rows: Sequence[AnsweredPrompt], image_features: ImageFeatures = lambda images: images
) -> tuple[Tensor, Tensor]:
    """Logits of the answers' tokens, with gradients.

    Args:
        runner: The language model.
        rows: Encoded prompts with answers, and the number of answer tokens at the end of each.
        image_features: Gives the images of the rows with the features that the model reads.

    Returns:
        Logits [R, W, V] and targets [R, W], of the W last positions; W is the length of the longest answer.
    """
    width = max(count for _, count in rows)
    arguments = runner.padded([read for read, _ in rows])
    more = vision_arguments(image_features(arguments["images"]))
    if arguments["token_types"] is not None and runner.token_types_name is not None:
        more[runner.token_types_name] = arguments["token_types"]
    edits = arguments["edits"]
    with nullcontext() if edits is None else edits.attached(runner.sites):
        output = runner.model(
            input_ids=arguments["tokens"],
            attention_mask=arguments["mask"],
            position_ids=arguments["positions"],
            use_cache=False,
            logits_to_keep=width + 1,
            **more,
        )
    logits = output.logits if runner.has_logits_to_keep else keep_columns(output.logits, width + 1)
    targets = arguments["tokens"][:, -width:].clone()
    for row, (_, count) in enumerate(rows):
        targets[row, : width - count] = IGNORED
    return logits[:, :-1], targets


def _with_tokens(read: EncodedPrompt, tokens: Sequence[int]) -> EncodedPrompt:
    """The encoded prompt with text tokens at its end, at the positions that decoding gives them."""
    device = read.ids.device
    steps = torch.arange(1, len(tokens) + 1, device=read.positions.device)
    types = read.token_types
    return replace(
        read,
        ids=torch.cat([read.ids, torch.tensor(tokens, device=device)]),
        positions=torch.cat([read.positions, read.positions[..., -1:] + steps], -1),
        token_types=None if types is None else torch.cat([types, types.new_zeros(len(tokens))]),
        key=(*read.key, *tokens),
    )
