"""Base class of methods with tensors that `icl fit` trains (`tune.parameters: vectors`).

    tune: {task: ..., parameters: vectors, intervene: m2iv, objective: distill}

The training loop computes the loss under the interventions of `steered_by`. Gradients reach the tensors through them.
The weights of the model stay fixed. The file has the format of `icl fit`, so `intervene: {name: m2iv, fitted: FILE}`
reads it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from decoding import Control, FitData, FittedMethod, FittedTensors
from icl import ConfigError, DataError, Intervention, Keys, Prompt, Site, Tensor, Where, class_name, steer, torch
from icl.memory import report_out_of_memory
from icl.models.hf.model import HF


@dataclass(frozen=True)
class TrainableMethod(FittedMethod):
    """Base of methods that train their tensors with the loss of answers.

    A subclass defines `start`, and either `edit` and `intervention`, or `steered` and `steered_by`.
    """

    available_controls: ClassVar[tuple[Control, ...]] = ("random",)

    def start(self, model: HF, prompts: Iterable[Prompt], seed: int) -> FittedTensors:
        """What training begins with. All of its tensors are trained.

        Args:
            model: The loaded model.
            prompts: Training prompts in order; may be an infinite iterator.
            seed: Seed of random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `start`")

    def edit(self, tensor: Tensor, parameters: Mapping[str, Any]) -> Intervention:
        """The edit with the tensor that `tensor` names and the parameters of its file."""
        raise NotImplementedError(f"{type(self).__name__} does not define `edit`")

    def steered_by(self, trained: FittedTensors, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        """The prompts, read under the tensors in training.

        Their interventions keep the graph of the tensors, and their digests do not name the values.

        Args:
            trained: The tensors as they are now, with the other values of `start`.
            prompts: Prompts of a training step.
            model: The loaded model. The method may observe its states.
        """
        edit = unnamed(self.edit(trained.tensors[self.tensor], trained.parameters))
        return [steer(prompt, edit) for prompt in prompts]

    @classmethod
    def has_fit(cls) -> bool:
        """Whether `icl fit` fits it, too."""
        return cls.fit is not TrainableMethod.fit

    def problem(self) -> str | None:
        return super().problem() if self.fitted or self.has_fit() else self._how

    def fit(self, data: "FitData") -> FittedTensors:
        raise ConfigError(self._how)

    @property
    def _how(self) -> str:
        name = class_name(type(self))
        return (
            f"'{name}' is trained by `icl fit`, with `tune: {{parameters: vectors, intervene: {name}, …}}`. Then name "
            f"its file: {{name: {name}, fitted: adapters/NAME/tuned/vectors.safetensors}}."
        )


@dataclass(frozen=True, eq=False)
class Unnamed:
    """An intervention without a digest of its tensors, because they change."""

    acts: Intervention
    digest: str = "in training"
    neutral: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.acts.sites

    @property
    def where(self) -> Where:
        return self.acts.where

    def edit(self, site: Site, x: Tensor, rows: Sequence[int]) -> Tensor:
        return self.acts.edit(site, x, rows)


@dataclass(frozen=True, eq=False)
class UnnamedScores(Unnamed):
    """An edit of scores with tensors that change."""

    keys: Keys = Keys()  # noqa: RUF009 frozen


def unnamed(acts: Intervention) -> Unnamed:
    """The intervention without a digest of its tensors."""
    keys = getattr(acts, "keys", None)  # a test of the protocol would compute the digest
    return UnnamedScores(acts, keys=keys) if isinstance(keys, Keys) else Unnamed(acts)


def minimize(
    data: FitData,
    interventions: "Callable[[], Sequence[Intervention]]",
    optimizer: "torch.optim.Optimizer",
    items: Sequence[tuple[Prompt, str]],
    *,
    steps: int,
    batch: int,
    what: str,
    scheduler: "torch.optim.lr_scheduler.LRScheduler | None" = None,
) -> list[float]:
    """Takes steps of an optimizer on random batches of prompts and answers. Random numbers come from the data's seed.

    Args:
        data: The dev split.
        interventions: Makes the interventions from the tensors of the optimizer.
        optimizer: An optimizer of torch over these tensors.
        items: Prompts with their answers.
        steps: Number of steps.
        batch: Items of a step, drawn without repetition.
        what: Name for the progress display.
        scheduler: Sets the learning rate of the optimizer after each step. None: it is constant.

    Returns:
        The loss of each step, before it.

    Raises:
        DataError: The loss is not a number. Tensors of the last completed step.
        ModelError: A step does not fit into memory.
    """

    from icl.models.hf.gradients import answer_loss, encode_answers

    generator = torch.Generator().manual_seed(data.seed)
    encoded = encode_answers(data.model, [prompt for prompt, _ in items], [answer for _, answer in items])
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    losses: list[float] = []
    for step in range(steps):
        chosen = torch.randperm(len(encoded), generator=generator)[:batch].tolist()
        with report_out_of_memory(
            f"{what}: a step with {len(chosen)} prompts", "a smaller batch, fewer shots or a larger device"
        ):
            loss = answer_loss(data.model, [encoded[i] for i in chosen], [unnamed(one) for one in interventions()])
            if not torch.isfinite(loss):
                raise DataError(f"{what}: the loss of step {step + 1} is not a number. Use a lower learning rate.")
            gradients = torch.autograd.grad(loss, tensors)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
        data.on_progress(what, step + 1, steps)
    return losses
