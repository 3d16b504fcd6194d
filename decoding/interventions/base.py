"""Base classes of steering methods, the components of the axis `intervene`.

    intervene: {name: task_vector, fitted: plus.safetensors}

A method turns prompts into steered prompts. The engine calls `steered` before a strategy makes branches, so all
branches of a prompt are read under the intervention (`icl.models.interventions`). A new method is one file:

    @component("intervention", "mine")
    @dataclass(frozen=True)
    class Mine(FittedMethod):
        def intervention(self, width): ...      the edit that the tensors of the file make
        def fit(self, data): ...                the tensors, from prompts of a dev split (`icl fit`)

A method without a file overrides `steered`. It may observe other prompts first:

    states = model.observe(prompts, [Site("residual", 2)])        # [{site: [tokens, d]}, ...], one for each prompt
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from decoding import FitData, SteeringMethod
from decoding.interventions.vector_file import (
    FittedTensors,
    VectorFile,
    find_vector_file,
    random_of_equal_norm,
    read_vector_file,
)
from icl import ConfigError, Count, ICLError, Intervention, ModelError, Prompt, Tensor, describe, steer
from icl.models.hf.model import HF

Control = Literal["none", "random", "random_heads", "shuffled", "zero_shot"]
"""What replaces the fitted vectors: nothing, random ones of equal norm, an equal number of random heads that were not
chosen, vectors of sources with shuffled answers, or vectors of sources without demonstrations."""

RANDOM_CONTROLS: tuple[Control, ...] = ("random", "random_heads")
"""Controls that need no tensor of the file."""


@dataclass(frozen=True)
class FittedMethod(SteeringMethod):
    """Base of methods whose vectors `icl fit` computes.

    A subclass defines `fit` and `intervention`. It says in `tensor` which tensor of the file the controls replace, and
    in `min_sources` and `min_fit_shots` how many queries, and demonstrations for each, its fit needs at least.
    """

    fitted: str = ""  # file of `icl fit` with the vectors
    strength: float = 1.0  # share of the edit; 0 is off
    control: Control = "none"  # what replaces the vectors: random of equal norm, shuffled answers, no demonstrations
    draw: Count = 0  # number of the random draw of the controls `random` and `random_heads`
    transfer: bool = False  # whether vectors of another model or template are allowed

    tensor: ClassVar[str] = "vectors"
    min_sources: ClassVar[int] = 2
    min_fit_shots: ClassVar[int] = 1
    available_controls: ClassVar[tuple[Control, ...]] = ("random", "shuffled", "zero_shot")

    def __post_init__(self) -> None:
        if self.fitted:
            object.__setattr__(self, "_path", find_vector_file(self.fitted))
        if self.control != "none" and self.control not in self.available_controls:
            raise ConfigError(f"control '{self.control}' does not exist. Use {', '.join(self.available_controls)}.")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    @property
    def source(self) -> VectorFile | None:
        return self.file if self.fitted else None

    @cached_property
    def file(self) -> VectorFile:
        """The file of vectors. Raises ConfigError if it cannot be read, or is of another method."""
        file = read_vector_file(vars(self)["_path"])
        name = type(self).component[1]  # type: ignore[attr-defined]
        if file.method != name:
            raise ConfigError(
                f"fitted: {file.path} has vectors of '{file.method}', not of '{name}'. Use intervene: {file.method}, "
                f"or fit again: icl fit FILE intervene={name} --out {file.path.name}"
            )
        return file

    @property
    def labelled_items(self) -> int:
        record = self.file.record if self.fitted else {}
        return len({*record.get("sources", ()), *record.get("choice", ())})

    @property
    def option_biases(self) -> tuple[float, ...]:
        biases = tuple(self.file.record.get("option_biases", ())) if self.fitted else ()
        return biases if any(biases) else ()

    @property
    def config(self) -> dict[str, Any]:
        """Names the contents of the file, not its path. Only random controls name their draw."""
        node: dict[str, Any] = describe(self)
        node.pop("transfer")
        if self.control not in RANDOM_CONTROLS:
            node.pop("draw")
        return node | {"fitted": self.file.digest if self.fitted else ""}

    def problem(self) -> str | None:
        if not self.fitted:
            name = type(self).component[1]  # type: ignore[attr-defined]
            return (
                f"'{name}' has no vectors yet. Run `icl fit` on a dev split, then name its file: "
                f"{{name: {name}, fitted: FILE.safetensors}}."
            )
        _ = self.file
        if type(self).intervention is not FittedMethod.intervention:
            try:
                _ = self._interventions
            except ICLError as error:  # the file lacks a layer, heads or a control
                return str(error)
        return None

    def check(self, model: HF) -> None:
        width = self.file.record.get("width")
        if width is not None and width != model.sites.width:
            raise ModelError(
                f"{self.file.path} has vectors of width {width}, and the states of this model have width "
                f"{model.sites.width}. Fit them on this model."
            )
        for edit in self._interventions:
            for site in edit.sites:
                model.sites.resolve(site)

    def chosen(self, key: str) -> Any:
        """The value of a parameter: the config's, or the fit's choice."""
        own = getattr(self, key)
        if own is not None:
            return own
        if key not in self.file.parameters:
            raise ConfigError(f"{self.file.path} has no {key}. Set the parameter.")
        return self.file.parameters[key]

    @cached_property
    def vectors(self) -> Tensor:
        """The tensor of the method or of its control."""
        return self.controlled(self.tensor)

    def controlled(self, name: str) -> Tensor:
        """A tensor of the file, or what the control has in its place. Raises ConfigError if the file lacks it."""
        if self.control not in ("none", "random", "random_heads"):
            name = f"{name}.{self.control}"
        if name not in self.file.tensors:
            raise ConfigError(f"{self.file.path} has no vectors '{name}'. Fit it again.")
        own = self.file.tensors[name]
        return self.random_vectors(own) if self.control == "random" else own

    def random_vectors(self, own: Tensor) -> Tensor:
        """Random vectors of equal norm, which belong to this file and `draw`."""
        return random_of_equal_norm(own, f"{self.file.method} {self.file.digest} {self.draw}")

    def fitted_draw(self) -> str:
        """The name of the control's tensor where the fit itself made the draw. Raises ConfigError for another draw."""
        own = int(self.file.parameters.get("draw", 0))
        if own != self.draw:
            raise ConfigError(
                f"{self.file.path} has random vectors of draw {own}. "
                f"Fit it again with draw: {self.draw}, or set draw: {own}."
            )
        return f"{self.tensor}.{self.control}"

    def offers(self, control: Control) -> bool:
        """Whether the file can give one of `available_controls`."""
        return control in RANDOM_CONTROLS or f"{self.tensor}.{control}" in self.file.tensors

    def intervention(self) -> Intervention:
        """The edit."""
        raise NotImplementedError(f"{type(self).__name__} does not define `intervention`")

    def interventions(self) -> tuple[Intervention, ...]:
        """The edits, if there is more than one."""
        return (self.intervention(),)

    def fit(self, data: FitData) -> "FittedTensors":
        """The tensors and the chosen parameters, from a dev split."""
        raise NotImplementedError(f"{type(self).__name__} does not define `fit`")

    @cached_property
    def _interventions(self) -> tuple[Intervention, ...]:
        return self.interventions()

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        self.check(model)
        return [steer(prompt, *self._interventions) for prompt in prompts]

    def controls(self) -> tuple[SteeringMethod, ...]:
        if self.control != "none" or not self.fitted:
            return ()
        return tuple(replace(self, control=one) for one in self.available_controls if self.offers(one))
