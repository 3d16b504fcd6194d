"""Data to fit a steering method on: prompts of a dev split in two disjoint parts, and measurements on them.

    sources   prompts with the states that vectors are made of
    choice    prompts to choose the layer, the heads or the strength on

Both parts have prompts with demonstrations. The same prompts without demonstrations, or with shuffled answers, are
made from them. Accuracy compares normalized greedy answers with the accepted ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from decoding.prompt_edits import demonstrations, remove_demonstrations, replace_answers
from icl import DataError, Intervention, PlanError, Prompt, Site, Tensor, Where, steer, torch
from icl.metrics import is_accepted
from icl.models.hf.model import HF

ROWS_AT_ONCE = 256
"""Prompts that are open at the same time while first tokens are scored."""

BATCH = 32
"""Prompts that are open at the same time while answers are read."""


@dataclass(frozen=True)
class DevPrompt:
    """A prompt of the dev split with its accepted answers.

    Attributes:
        id: The query.
        prompt: The prompt with demonstrations.
        answers: Accepted answers, the first one as the demonstrations write it.
    """

    id: str
    prompt: Prompt
    answers: tuple[str, ...]

    @cached_property
    def without_demonstrations(self) -> Prompt:
        return remove_demonstrations(self.prompt)

    @cached_property
    def with_shuffled_answers(self) -> Prompt:
        """The prompt after its demonstrations exchanged answers. If all have one answer, the prompt itself."""
        try:
            return replace_answers(self.prompt, "shuffled")
        except PlanError:
            return self.prompt

    @property
    def is_shuffled(self) -> bool:
        """Whether shuffling changes the prompt."""
        return self.with_shuffled_answers is not self.prompt


@dataclass(frozen=True, eq=False)
class FitData:
    """The dev split of a fit.

    Attributes:
        model: The loaded model.
        sources: Prompts with the states that vectors are made of.
        choice: Prompts to choose parameters on. No query is in both parts.
        seed: Seed of random numbers.
        max_new_tokens: Length limit of an answer.
        on_progress: Called with a text and the number of steps done and planned.
    """

    model: HF
    sources: tuple[DevPrompt, ...]
    choice: tuple[DevPrompt, ...]
    seed: int = 0
    max_new_tokens: int = 16
    on_progress: Callable[[str, int, int], None] = lambda text, done, planned: None

    def __post_init__(self) -> None:
        if not self.sources:
            raise DataError("vectors need at least 1 source, and there are none.")
        if same := {one.id for one in self.sources} & {one.id for one in self.choice}:
            raise DataError(f"query '{min(same)}' is a source and also chooses parameters. The parts must be disjoint.")

    def states(self, prompts: Sequence[Prompt], sites: Sequence[Site]) -> Tensor:
        """States of each prompt at its last token: [prompts, sites, ...]. Raises ModelError."""
        observed = self.model.observe(prompts, sites)
        return torch.stack([torch.stack([own[site][-1] for site in sites]) for own in observed])

    def mean_states(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Means over the sources: 'few_shot', 'zero_shot' and 'shuffled', each [sites, ...].

        'shuffled' is missing if no source has two different answers to exchange.
        """
        kinds = {
            "few_shot": [one.prompt for one in self.sources],
            "zero_shot": [one.without_demonstrations for one in self.sources],
            "shuffled": [one.with_shuffled_answers for one in self.sources] if self.has_shuffled_sources else [],
        }
        return {name: self.states(prompts, sites).mean(0) for name, prompts in kinds.items() if prompts}

    @property
    def has_shuffled_sources(self) -> bool:
        """Whether shuffling answers changes at least one source."""
        return any(one.is_shuffled for one in self.sources)

    def shuffle_report(self) -> dict[str, int]:
        """Number of prompts of each part that shuffling leaves as they are, because all answers in them are equal."""
        parts = {"sources": self.sources, "choice": self.choice}
        return {f"{name}_not_shuffled": sum(not one.is_shuffled for one in part) for name, part in parts.items()}

    def answer_states(self, sites: Sequence[Site], answers: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """States before and after the answer of each source, without demonstrations.

        Args:
            sites: Where they are read.
            answers: For each source, the answer in place of its first accepted one.

        Returns:
            States at the last token of the prompt, and at the last token of its answer: [sources, sites, d].
        """

        from icl.models.hf.hidden_states import StateRecorder

        pairs = []
        for start in range(0, len(self.sources), BATCH):
            batch = self.sources[start : start + BATCH]
            prompts = [self.model.before_answer(one.without_demonstrations) for one in batch]
            recorder = StateRecorder(tuple(sites), Where(part="both"))
            rows = self.model.open(prompts, observe=recorder)
            own_answers = answers[start : start + BATCH] or [one.answers[0] for one in batch]
            rows.extend([self.model.option_ids(p, [one])[0] for p, one in zip(prompts, own_answers, strict=True)])
            for i in range(len(batch)):
                own = recorder.states[i]
                pairs.append([torch.stack([own[site][place] for site in sites]) for place in (0, -1)])
        before, after = zip(*pairs, strict=True)
        return torch.stack(before), torch.stack(after)

    def accuracies(
        self, interventions: Sequence[Sequence[Intervention]], prompts: Sequence[Prompt] | None = None
    ) -> list[float]:
        """The accuracy of the choice part under each list of interventions, in one batch.

        Args:
            interventions: Each acts on all prompts.
            prompts: Prompts of the choice part. By default those without demonstrations.

        Raises:
            DataError: A prompt could not be answered.
        """
        from decoding import Arm, DecodingRequest, Failure, GreedyDecoding, run_requests

        arm = Arm(GreedyDecoding())
        base = [one.without_demonstrations for one in self.choice] if prompts is None else prompts
        requests = [
            DecodingRequest(steer(prompt, *edits), arm, max_new_tokens=self.max_new_tokens)
            for edits in interventions
            for prompt in base
        ]
        results = run_requests(self.model, requests, trace=False)
        right: list[bool] = []
        for i, result in enumerate(results):
            if isinstance(result, Failure):
                raise DataError(f"query '{self.choice[i % len(base)].id}': {result.reason}")
            right.append(is_accepted(result.text, self.choice[i % len(base)].answers))
        return [sum(right[i : i + len(base)]) / len(base) for i in range(0, len(right), len(base))] if base else []

    def first_token_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Tensor:
        """Log-probability of the first token of each answer, [prompts] float32 on the host.

        Prompts that differ in interventions at their end share everything before it, so each costs one token.
        """
        parts, prompts = [], [self.model.before_answer(prompt) for prompt in prompts]
        tokens = [
            self.model.option_ids(prompt, [answer])[0][0] for prompt, answer in zip(prompts, answers, strict=True)
        ]
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            logits = self.model.open(prompts[start : start + ROWS_AT_ONCE]).logits
            own = torch.tensor(tokens[start : start + ROWS_AT_ONCE], device=logits.device)
            parts.append(logits.log_softmax(-1).gather(1, own[:, None])[:, 0].cpu())
            self.on_progress("scoring interventions", min(start + ROWS_AT_ONCE, len(prompts)), len(prompts))
        return torch.cat(parts)

    def reference_accuracies(self) -> dict[str, float]:
        """Accuracy of the choice part without demonstrations, 'zero_shot', and if it has any with them, 'few_shot'."""
        kinds = {"zero_shot": [one.without_demonstrations for one in self.choice]}
        if any(demonstrations(one.prompt) for one in self.choice):
            kinds["few_shot"] = [one.prompt for one in self.choice]
        return {name: self.accuracies([()], prompts)[0] for name, prompts in kinds.items()}


def best(scores: Mapping[int, float]) -> int:
    """The key with the highest score; of equally good ones, the first."""
    return max(scores, key=lambda key: (scores[key], -key))


def common_share(differences: Tensor) -> float:
    """Share of a shift that all sources have in common: |v|^2 / (|v|^2 + mean |dz - v|^2), of [sources, d]."""
    mean = differences.mean(0)
    own = float((differences - mean).square().sum(-1).mean())
    common = float(mean.square().sum())
    return common / (common + own) if common + own > 0 else 0.0
