"""Sensitivity-aware task vectors: in the heads that demonstrations change most, one of several typical inputs.

Sensitivity-aware Task Vectors for many-shot multimodal in-context learning, 2025 (arXiv 2511.08246). Read as a summary
only, so the parts are our reconstruction, and their constants are parameters.

    da_lh   head input at the last token with demonstrations, minus without, of each source
    s_lh    mean |da_lh| / |a_lh without| times the mean cosine of two sources' da_lh      (`sensitivities`)
    where   the `num_heads` heads with the largest s
    what    per head, one of K cluster centers of the sources' inputs (k-means), or nothing

Heads are decided in the order of s. Each takes the center with the lowest loss of the first answer token on the choice
part, given the heads before it, or keeps the query's own input if no center lowers the loss. The paper chooses by
REINFORCE. With one cluster and every head taken, this is `mtv` on these heads.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, HeadEdit
from decoding.interventions.head_effects import (
    MAX_EFFECT_PROMPTS,
    head_edit,
    head_sites,
    leaves_others,
    random_heads,
    strongest,
)
from icl import PositiveInt, Tensor, Where, component, scipy, steer, torch


@component("intervention", "stv")
@dataclass(frozen=True)
class STV(FittedMethod):
    """Cluster centers of head inputs, put in place of the query's own in the heads that demonstrations change most.

    Controls: random inputs of equal norm, and as many random heads among the others.
    """

    num_heads: PositiveInt = 10  # heads that are considered, in the order of their sensitivity
    clusters: PositiveInt = 8  # cluster centers of each head
    part: Literal["prompt", "both"] = "both"  # edit the prompt's last token, or also every generated token

    tensor: ClassVar[str] = "heads"
    available_controls: ClassVar[tuple[Control, ...]] = ("random", "random_heads")

    def intervention(self) -> HeadEdit:
        layers = [int(layer) for layer in self.file.parameters["layers"]]
        heads = [(int(i), int(head)) for i, head in self.file.parameters["heads"]]
        if self.control == "random_heads":
            heads = random_heads(self.vectors.shape, heads, self.draw)
        return head_edit(layers, self.vectors, heads, self.strength, where=Where(part=self.part))

    def offers(self, control: Control) -> bool:
        possible = control != "random_heads" or leaves_others(
            len(self.file.parameters["heads"]), self.file.tensors["heads"].shape
        )
        return possible and super().offers(control)

    def fit(self, data: FitData) -> FittedTensors:
        sites = head_sites(data.model)
        layers = [site.layer for site in sites]
        few_shot = data.states([one.prompt for one in data.sources], sites)
        zero_shot = data.states([one.without_demonstrations for one in data.sources], sites)
        scores = sensitivities(few_shot - zero_shot, zero_shot)
        inputs, taken = few_shot.mean(0), list[tuple[int, int]]()
        losses = [self._loss(data, [None])[0]]
        for i, head in strongest(scores, self.num_heads):
            centers = cluster_centers(few_shot[:, i, head], min(self.clusters, len(few_shot)), data.seed)
            trials = []
            for center in centers:
                changed = inputs.clone()
                changed[i, head] = center
                trials.append(head_edit(layers, changed, [*taken, (i, head)]))
            by_center = self._loss(data, trials)
            best = min(range(len(centers)), key=by_center.__getitem__)
            if by_center[best] < losses[-1]:
                inputs[i, head] = centers[best]
                taken.append((i, head))
                losses.append(by_center[best])
        edit = head_edit(layers, inputs, taken, where=Where(part=self.part))
        report = {**data.reference_accuracies(), "steered": data.accuracies([(edit,)])[0], "losses": losses}
        tensors = {"heads": inputs, "sensitivities": scores}
        return FittedTensors(tensors, {"layers": layers, "heads": taken, "num_heads": len(taken)}, report)

    @staticmethod
    def _loss(data: FitData, edits: "Sequence[HeadEdit | None]") -> list[float]:
        """The mean loss of the first answer token on prompts of the choice part, under each edit."""
        chosen = data.choice[:MAX_EFFECT_PROMPTS]
        prompts = [
            one.without_demonstrations if edit is None else steer(one.without_demonstrations, edit)
            for one in chosen
            for edit in edits
        ]
        answers = [one.answers[0] for one in chosen for _ in edits]
        losses: list[float] = (-data.first_token_logprobs(prompts, answers).view(len(chosen), -1).mean(0)).tolist()
        return losses


def sensitivities(differences: Tensor, before: Tensor) -> Tensor:
    """How much and how consistently demonstrations change each head: [n, L, H, e], [n, L, H, e] -> [L, H].

    The mean cosine is over all pairs of different sources.
    """
    size = (differences.norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)).mean(0)
    units, count = torch.nn.functional.normalize(differences, dim=-1), len(differences)
    cosines = (units.sum(0).square().sum(-1) - units.square().sum(-1).sum(0)) / (count * (count - 1))
    scores: Tensor = size * cosines
    return scores


def cluster_centers(inputs: Tensor, count: int, seed: int) -> Tensor:
    """Centers of k-means, [clusters, e] of [n, e]. Clusters without members are left out."""
    if count == 1:
        return inputs.mean(0, keepdim=True)
    _, labels = scipy.cluster.vq.kmeans2(inputs.double().numpy(), count, minit="++", seed=seed, missing="warn")
    return torch.stack([inputs[torch.from_numpy(labels == label)].mean(0) for label in sorted(set(labels.tolist()))])
