"""Mixture of groups of demonstrations whose weights a hypernetwork reads off the demonstrations.

Mixtures of in-context learners (Hong et al., ACL 2025, 2411.02830): a hypernetwork h(D_1, ..., D_n) gives the weights
of the groups D_i, so that they carry over to groups that the fit has not read.

    x_i = mean of the vectors of the demonstrations in group i
    u_i = b . tanh(A x_i + a)
    w_i = (1 + u_i - mean_j u_j) / n,      scores = sum_i w_i l(y | group i, query)

Differs from the released code in the network: there, a T5 reads the text of each group, and one head gets all groups
side by side in their order, so their number is fixed. Here the encoder is frozen, and a group's output does not depend
on its place. The weights sum to one; a group may have a negative weight, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np

from decoding import (
    ControlTarget,
    FittedTensors,
    GroupMixture,
    GroupWeights,
    Strategy,
    VectorFile,
    consecutive_groups,
    demonstrations,
    find_vector_file,
    random_of_equal_norm,
    read_vector_file,
)
from decoding.strategies.several_prompts import MoICL
from icl import (
    Count,
    NonNegative,
    Positive,
    PositiveInt,
    Prompt,
    Tensor,
    build,
    component,
    describe,
    pin_file,
    torch,
)
from icl.errors import ConfigError, DataError, PlanError

NOT_OF_THE_FIT = ("fitted", "control", "draw", "code")
"""Parameters that the file of a fit does not have."""


@component("strategy", "moicl_hypernetwork")
@dataclass(frozen=True)
class MoICLHypernetwork(GroupMixture):
    """Weighted mixture of groups of demonstrations; a network reads their weights off the demonstrations.

    `icl fit` trains the network on a dev split, with the loss of `moicl`'s weights. Without a file, all groups have the
    same weight. Controls: `control: permuted` gives each group the weight of another one in the prompt, `control:
    random` has a network of random tensors with the norms of the fitted ones, and `moicl` has equal weights.
    """

    fitted: str = ""  # file of `icl fit` with the network
    control: Literal["none", "permuted", "random"] = "none"  # what replaces the weights
    draw: Count = 0  # number of the random draw of `control: random`
    groups: Count = 0  # groups of consecutive demonstrations; 0: one per demonstration
    embedder: Any = "encoder"  # embedder of images and texts: its name, or a mapping
    features: Literal["images", "texts", "both"] = "both"  # what the embedder reads of a demonstration
    hidden: PositiveInt = 8  # hidden units of the network
    steps: Count = 300  # of the fit
    rate: Positive = 0.01  # learning rate of AdamW
    decay: NonNegative = 0.1  # weight decay of AdamW
    seed: int = 0  # random seed of the network before its first step
    code: str = ""  # digest of the content of `fitted`; set automatically

    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        embedder = build("embedder", self.embedder)  # refuses an unknown name
        if isinstance(self.embedder, Mapping):  # a strategy can be hashed
            object.__setattr__(self, "embedder", embedder)
        if self.control != "none" and not self.fitted:
            raise ConfigError(f"control: {self.control} changes the weights of a fit, and `fitted` names no file.")
        if self.fitted:
            object.__setattr__(self, "_path", find_vector_file(self.fitted))
            self._pin()

    @classmethod
    def control_for(cls, target: ControlTarget) -> Any:
        strategy = target.strategy
        if isinstance(strategy, cls) and strategy.fitted and strategy.control == "none":
            return target.with_strategy(replace(strategy, control="permuted"))
        return None

    def calibration_strategies(self, shots: int) -> tuple[Strategy, ...]:
        """Those of `moicl`: one per group, with the weight 1 for this group."""
        return MoICL(groups=self.groups).calibration_strategies(shots)

    def fit_on_prompts(self, logprobs: Tensor, gold: Sequence[int], prompts: Sequence[Prompt]) -> FittedTensors:
        rows = [self._features(prompt) for prompt in prompts]
        if {len(row) for row in rows} != {logprobs.shape[1]}:
            counts = " or ".join(map(str, sorted({len(row) for row in rows})))
            raise DataError(
                f"prompts have {counts} groups of demonstrations, and the fit needs {logprobs.shape[1]} in each: some "
                "demonstrations do not fit into the model's context. Use fewer shots."
            )
        x = torch.from_numpy(np.stack(rows)).float()
        tensors, loss = fit_network(x, logprobs, gold, self)
        names = [field.name for field in fields(self) if field.name not in NOT_OF_THE_FIT]
        parameters = {name: value for name, value in describe(self).items() if name in names}
        return FittedTensors(tensors, parameters, {"embedder": build("embedder", self.embedder).digest, "loss": loss})

    def preflight(self) -> None:
        """Raises ConfigError or PlanError if the file has changed, or is of another method or embedder."""
        if self.fitted:
            self._file()

    def groups_and_weights(self, prompt: Prompt) -> GroupWeights:
        """Consecutive groups, and the weights of the network. Raises as `preflight`."""
        groups = consecutive_groups(demonstrations(prompt), self.groups)
        weights = [1 / len(groups)] * len(groups)
        if self.fitted and len(groups) > 1:
            tensors, features = self._tensors(), torch.from_numpy(self._features(prompt)).float()
            if features.shape[1] != tensors["hidden"].shape[1]:
                raise PlanError(
                    f"the network {self.fitted} reads vectors with {tensors['hidden'].shape[1]} numbers, and features: "
                    f"{self.features} gives {features.shape[1]}. Remove the key `features`, or fit again."
                )
            weights = network_weights(features, **tensors).tolist()
        if self.control == "permuted":
            order = prompt.key.numpy("moicl_hypernetwork/permuted").permutation(len(groups))
            weights = [weights[i] for i in np.roll(order, 1)[np.argsort(order)]]  # one cycle: none keeps its own
        return groups, weights

    def _features(self, prompt: Prompt) -> np.ndarray:
        """The mean vector of each group, [groups, D]. Raises PlanError without demonstrations."""
        groups = consecutive_groups(demonstrations(prompt), self.groups)
        if not groups[0]:
            raise PlanError("moicl_hypernetwork reads the demonstrations of a group, and a prompt has none.")
        vectors = self.vectors(prompt, [number for group in groups for number in group])
        ends = np.cumsum([len(group) for group in groups])[:-1]
        return np.stack([rows.mean(0) for rows in np.split(vectors, ends)])

    def _pin(self) -> None:
        pin_file(self, vars(self)["_path"], f"the network {self.fitted}")

    def _file(self) -> VectorFile:
        self._pin()
        file = read_vector_file(vars(self)["_path"])
        if file.method != "moicl_hypernetwork":
            raise ConfigError(f"fitted: {self.fitted} was fitted for '{file.method}', not for 'moicl_hypernetwork'.")
        digest = build("embedder", self.embedder).digest
        if file.report["embedder"] != digest:
            raise PlanError(
                f"the network {self.fitted} was fitted with another embedder ({str(file.report['embedder'])[:24]}, not "
                f"{digest[:24]}). Remove the key `embedder`, or fit again with this one."
            )
        return file

    def _tensors(self) -> dict[str, Tensor]:
        tensors = dict(self._file().tensors)
        if self.control != "random":
            return tensors
        return {name: random_of_equal_norm(one, f"{name} {self.code} {self.draw}") for name, one in tensors.items()}


def network_weights(x: Tensor, hidden: Tensor, bias: Tensor, output: Tensor) -> Tensor:
    """w_i = (1 + u_i - mean_j u_j) / n with u_i = b . tanh(A x_i + a): [..., n, D] -> [..., n].

    Args:
        x: Features of n groups.
        hidden: A, [H, D].
        bias: a, [H].
        output: b, [H].
    """
    outputs = torch.tanh(x @ hidden.T + bias) @ output
    return (1 + outputs - outputs.mean(-1, keepdim=True)) / x.shape[-2]


def fit_network(
    x: Tensor, logprobs: Tensor, gold: Sequence[int], settings: MoICLHypernetwork
) -> tuple[dict[str, Tensor], float]:
    """The tensors of the network that minimizes the cross-entropy of the options, and this loss in nats.

    The network starts at equal weights and reads centered features with a variance of one, which its tensors then
    include. The fit also learns a scale of the scores, which changes no ranking and is not stored.

    Args:
        x: Features, [queries, groups, D] float32.
        logprobs: Log-probabilities of the options under each group, [queries, groups, options].
        gold: Index of each right option.
        settings: `hidden`, `steps`, `rate`, `decay` and `seed`.
    """
    mean = x.mean((0, 1))
    scale = (x - mean).square().mean().sqrt().clamp(min=1e-6)
    generator = torch.Generator().manual_seed(settings.seed)
    hidden = torch.randn(settings.hidden, x.shape[-1], generator=generator) / x.shape[-1] ** 0.5
    free = [hidden, torch.zeros(settings.hidden), torch.zeros(settings.hidden), torch.zeros(())]
    optimizer = torch.optim.AdamW([one.requires_grad_() for one in free], settings.rate, weight_decay=settings.decay)
    target, loss = torch.as_tensor(gold), torch.zeros(())
    with torch.enable_grad():
        for _ in range(settings.steps):
            weights = network_weights((x - mean) / scale, *free[:3])
            mixture = free[3].exp() * (weights[..., None] * logprobs).sum(1)
            loss = torch.nn.functional.cross_entropy(mixture, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    hidden, bias, output = (one.detach() for one in free[:3])
    return {"hidden": hidden / scale, "bias": bias - hidden @ mean / scale, "output": output}, float(loss.detach())
