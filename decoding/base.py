"""What a decoding strategy is: which prompts are read side by side, and how their next-token scores become one.

A strategy is a frozen dataclass with pure functions over branch logits. It never sees an engine: the token loop, the
option scorer and the lockstep plug-in all call the same `mask` and `combine`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from icl.streams import StreamKey
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.arms.arm import Arm
    from decoding.arms.control_target import ControlTarget
    from decoding.formulas.sampling import Sampler

Note = object
"""What `prepare` learned about one prompt (a description, a first answer); handed to `branches`."""


class StepState(Protocol):
    """One answer under way. key: whose random streams it draws from. memory: what a strategy kept, by step."""

    key: StreamKey
    memory: dict[int, int]


@dataclass
class InitialStepState:
    """The thread of an answer that nobody has begun."""

    key: StreamKey = StreamKey()
    memory: dict[int, int] = field(default_factory=dict)


class Generate(Protocol):
    """How `prepare` asks the model under test."""

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Greedy answers of the model under test."""
        ...


class Strategy:
    """Base of all strategies: one branch, its own distribution, greedy.

    needs: among 'generate', 'logits', 'hidden_states', 'attention', 'first token only'. presets: named parameter sets of one
    source each. sampler: how a token is drawn from the combined scores, where the YAML does not say.
    masks_in_combine: `combine` writes -inf, because its mask reads other branches than the reference.
    neutral: parameters at which the method is its reference under its mask (say alpha = 0), where there are such.
    draws: its scores read the query's own random stream. remembers: they depend on what earlier steps kept.
    over_options: option scoring hands `mask` and `combine` the log-probabilities of the options in place of tokens,
    [n, B, options]. options_only: it says nothing about texts. first_tokens: an option there is the set of first tokens
    of all its spellings. control: it isolates something of others and has no controls of its own.
    gates: its contrast is meant to be left out where `settled`, so that its other branches need not be read on there.
    reads_other: its branches are made of another sample's prompt too (`Prompt.paired_prompt`, which a run gives).
    exits: behind its branches' logits it is handed those of the reference's early layers, the lowest first
    (`Session.early_exit_logits`). nearest: the strategy that comes next to it where a model cannot run it.
    idle: as it stands it changes nothing, since what it learns has not been fitted (`icl fit`).
    keeps_best: a control of `of` whose scores order the tokens that the mask of `of` leaves as the reference does, so
    that it is greedy under greedy decoding (`decoding.arms.equivalence`).
    samples: answers that are generated, of which the most frequent counts (`decoding.engine.voting`). demonstrations: how many
    times a run's number of shots its prompt has. rank: its place among the default controls, the lowest first.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    presets: ClassVar[dict[str, dict[str, float]]] = {}
    masks_in_combine: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, float] | None] = None
    draws: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    over_options: ClassVar[bool] = False
    options_only: ClassVar[bool] = False
    first_tokens: ClassVar[bool] = False
    control: ClassVar[bool] = False
    gates: ClassVar[bool] = False
    reads_other: ClassVar[bool] = False
    exits: ClassVar[bool] = False
    nearest: ClassVar[str] = ""
    keeps_best: ClassVar[bool] = False
    samples: ClassVar[int] = 1
    demonstrations: ClassVar[int] = 1
    rank: ClassVar[int] = 100

    @classmethod
    def control_for(cls, target: "ControlTarget") -> "Arm | None":
        """The arm that `controls: default` adds beside `held.arm`: `held.beside(Mine(held.strategy))`. None: none."""
        return None

    @property
    def idle(self) -> bool:
        return False

    @property
    def sampler(self) -> "Sampler":
        from decoding.formulas.sampling import Greedy

        return Greedy()

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The branches' constant weights, where there are such; their sum is a hidden inverse temperature.

        A strategy that does not say gets them measured (`decoding.arms.inspection.weights_of`); one whose weights vary says None.
        """
        return (1.0,)

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        """The sum of the branches' weights, [B, 1], for strategies whose weights vary. logits: [n, B, V]."""
        raise NotImplementedError(f"{type(self).__name__} has weights that vary and does not define `strength`")

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """What must be generated before branches can be made, for a whole batch. Default: nothing."""
        return [None] * len(prompts)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompts to read; 0 is the reference."""
        return (prompt,)

    def mask(self, reference: "Tensor") -> "Tensor | None":
        """reference: [B, V] float32 logits of branch 0 -> [B, V] bool, True survives; None: all do."""
        return None

    def reference_decides(self, reference: "Tensor") -> "Tensor | None":
        """reference: [B, V] -> [B] bool: where the other branches cannot change the distribution that is drawn from.

        None: nowhere, ever. Engines may leave the other branches unread there and hand the reference in their place.
        Where the mask leaves one survivor, it is the token, whatever `combine` says.
        """
        mask = None if self.masks_in_combine else self.mask(reference)
        return None if mask is None else mask.sum(-1) == 1

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        """logits: [n, B, V] float32 -> scores [B, V]; -inf: masked too."""
        return logits[0]

    def combine_stateful(self, logits: "Tensor", step: int, states: Sequence[StepState]) -> "Tensor":
        """`combine`, for a strategy that draws random numbers or remembers earlier steps. threads: of each row.

        What the engines call. It may be asked twice about one step, and answers alike.
        """
        return self.combine(logits, step)


class StatefulStrategy(Strategy):
    """Base of strategies that define `follow`; `combine` is a first step in nobody's thread."""

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        return self.combine_stateful(logits, step, [InitialStepState() for _ in range(logits.shape[1])])


def unit_strength(logits: "Tensor") -> "Tensor":
    """[B, 1]: the strength of weights that vary and always sum to one. logits: [n, B, V]."""
    return logits.new_ones(logits.shape[1], 1)


def zero_strength(logits: "Tensor") -> "Tensor":
    """[B, 1]: the strength where identical branches leave nothing of one another. logits: [n, B, V]."""
    return logits.new_zeros(logits.shape[1], 1)


Make = Callable[[], Strategy]
