"""Sensitivity-aware task vectors: in the heads that demonstrations change most, one of several typical inputs.

Sensitivity-aware Task Vectors for many-shot multimodal in-context learning, AAAI 2026 (arXiv 2511.08246), by a public
note with its formulas.

    s_lh    mean over sources of |a_lh with demonstrations - a_lh without|_2, a_lh the head's input at the last token
    where   the `num_heads` heads with the largest s, all of them
    what    per head, one of K cluster centers of the sources' a_lh with demonstrations (k-means)

A categorical distribution per head chooses the center. REINFORCE learns its logits, which begin equal; the reward is
minus the loss, standardized in the step. The most probable center of each head is taken. With one cluster, this is
`mtv` on these heads.

The note has 300 of Qwen-VL's 1024 heads and 32 centers, where the accuracy stops to rise. It has no number of steps, no
rate, and does not say which prompts a step takes: here these are those of `mtv`, with the loss of the first answer
token.

No released code was available: the repository that the paper names (AMAP-ML/STV) was not found.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import Control, FitData, FittedMethod, FittedTensors, HeadEdit
from decoding.interventions.head_effects import (
    Heads,
    head_edit,
    head_sites,
    leaves_others,
    random_heads,
    reinforce,
    strongest,
)
from icl import PositiveInt, Tensor, Where, component, later_parameter, scipy, torch


@component("intervention", "stv")
@dataclass(frozen=True)
class STV(FittedMethod):
    """Cluster centers of head inputs, put in place of the query's own in the heads that demonstrations change most.

    Controls: random inputs of equal norm, and as many random heads among the others.
    """

    num_heads: PositiveInt = 10  # the most sensitive heads, all of which are edited
    clusters: PositiveInt = 8  # cluster centers of each head
    part: Literal["prompt", "both"] = "both"  # edit the prompt's last token, or also every generated token
    steps: PositiveInt = later_parameter(600)  # steps of REINFORCE

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
        scores = sensitivities(few_shot, zero_shot)
        heads = strongest(scores, self.num_heads)
        count = min(self.clusters, len(few_shot))
        centers = [cluster_centers(few_shot[:, i, head], count, data.seed) for i, head in heads]
        bank = torch.nn.utils.rnn.pad_sequence(centers, batch_first=True)  # [heads, centers, e]
        logits = torch.nn.utils.rnn.pad_sequence([one[:, 0] * 0 for one in centers], True, -torch.inf)

        mean, where = few_shot.mean(0), Where(part=self.part)

        def edit(choice: Tensor) -> HeadEdit:
            return head_edit(layers, with_centers(mean, heads, bank, choice), heads, where=where)

        reinforce(data, logits, self.steps if count > 1 else 0, sample=sampled_centers, logprob=logprobs, edit=edit)
        inputs = with_centers(mean, heads, bank, logits.argmax(-1))
        edits = [(head_edit(layers, own, heads, where=where),) for own in (mean, inputs)]
        accuracies = dict(zip(("mean inputs", "chosen centers"), data.accuracies(edits), strict=True))
        report = {**data.reference_accuracies(), **data.shuffle_report(), "accuracy": accuracies}
        tensors = {"heads": inputs, "sensitivities": scores, "logits": logits}
        return FittedTensors(tensors, {"layers": layers, "heads": heads, "num_heads": len(heads)}, report)


def sensitivities(few_shot: Tensor, zero_shot: Tensor) -> Tensor:
    """Mean L2 change of each head's input by demonstrations: [n, L, H, e], [n, L, H, e] -> [L, H]."""
    return (few_shot - zero_shot).square().sum(-1).sqrt().mean(0)


def with_centers(inputs: Tensor, heads: Heads, bank: Tensor, choice: Tensor) -> Tensor:
    """Inputs [L, H, e] with the chosen center of each head: bank [heads, centers, e], choice [heads]."""
    changed, places = inputs.clone(), torch.tensor(heads)
    changed[places[:, 0], places[:, 1]] = bank[torch.arange(len(bank)), choice]
    return changed


def sampled_centers(logits: Tensor, count: int, generator: "torch.Generator") -> Tensor:
    """Numbers of centers, [count, heads], by the softmax of the logits [heads, centers]."""
    return torch.multinomial(logits.softmax(-1), count, replacement=True, generator=generator).T


def logprobs(logits: Tensor, choices: Tensor) -> Tensor:
    """Log-probability of each choice [n], summed over heads: logits [heads, centers], choices [n, heads]."""
    return logits.log_softmax(-1).expand(len(choices), -1, -1).gather(-1, choices[..., None]).sum((1, 2))


def cluster_centers(inputs: Tensor, count: int, seed: int) -> Tensor:
    """Centers of k-means, [clusters, e] of [n, e]. Clusters without members are left out."""
    _, labels = scipy.cluster.vq.kmeans2(inputs.double().numpy(), count, minit="++", seed=seed, missing="warn")
    return torch.stack([inputs[torch.from_numpy(labels == label)].mean(0) for label in sorted(set(labels.tolist()))])
