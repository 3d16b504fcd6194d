"""Base classes of decoding strategies and of steering methods.

A strategy says which prompts are read in parallel, and how their logits become one score. A steering method turns
prompts into steered prompts (`decoding.interventions.base`).

A strategy is a frozen dataclass of pure functions on the logits of its branches. It never sees an engine. The token
loop, the option scorer and the vLLM plug-in all call the same `mask` and `combine`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any, ClassVar, Protocol, runtime_checkable

from decoding.formulas.distributions import plausibility_mask
from decoding.formulas.sampling import Greedy, Sampler
from decoding.interventions.vector_file import VectorFile
from icl import Model, Prompt, StreamKey, Tensor, describe, later_parameter
from icl.models.hf.model import HF
from icl.models.interventions import ActsIn
from icl.registry import SIMILARITY, check_member_names

Note = object
"""Result of `Strategy.prepare` for one prompt, such as a description or a first answer. `branches` receives it."""


class DefaultNote(str):
    """A note that replaces an answer of the model without a choice. Engines count the requests that have one."""


class StepState(Protocol):
    """State of one answer that is being decoded.

    Attributes:
        key: The random stream of the query.
        memory: Values that a strategy stored, by step: numbers, or tensors that stay on the device.
        note: What `Strategy.prepare` returned for the prompt. The trait `combines_notes` asks for it.
    """

    key: StreamKey
    memory: dict[int, Any]
    note: Note


@dataclass
class InitialStepState:
    """State of an answer before its first step."""

    key: StreamKey = StreamKey()
    memory: dict[int, Any] = field(default_factory=dict)
    note: Note = None


class Generate(Protocol):
    """Greedy generation with the model under test, as `Strategy.prepare` calls it."""

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Returns one text per prompt."""
        ...


@runtime_checkable
class ObservingGenerate(Generate, Protocol):
    """`Generate` of an engine whose model may be observed, for strategies that need 'interventions'.

    Attributes:
        model: The loaded model under test.
    """

    model: HF


class Beams(Protocol):
    """The beams of one answer, as `Strategy.search` reads them. B beams are active; all have the same length.

    Attributes:
        prompt: The prompt that is read: branch 0.
        max_beams: Most beams that run together.
    """

    prompt: Prompt
    max_beams: int

    @property
    def is_over(self) -> bool:
        """Whether no beam runs."""

    @property
    def step(self) -> int:
        """Number of the next token, from 0."""

    @property
    def logits(self) -> Tensor:
        """Next-token logits of each beam, [B, V] float32."""

    def look_ahead(self, tokens: Tensor) -> None:
        """Reads several next tokens of each beam, tokens [B, C], in one forward pass of B * C rows, beam by beam."""

    def choose(self, scores: Tensor) -> tuple[list[int], list[int] | None]:
        """Extends the beams by the tokens with the highest sums of log-softmaxed scores, and ends some of them.

        Args:
            scores: [B, V], -inf for tokens that are ruled out.

        Returns:
            For each surviving beam: its parent, and its row in `look_ahead`. None in place of the rows: some token was
            not read ahead, so all of them are read now.
        """

    def take_back(self, step: int) -> Tensor:
        """Makes the beams as they were before an earlier step. Returns the tokens chosen there so far, [B, V] bool."""


@dataclass(frozen=True)
class Traits:
    """Declared facts about a strategy.

    A strategy sets them once: `traits = Traits(masks_in_combine=True)`. If they depend on its parameters, `traits` is a
    property. A wrapper forwards the traits of the strategy it wraps: `replace(self.inner.traits, is_control=True)`.

    Attributes:
        needs: What the model must provide: 'generate', 'logits', 'hidden_states', 'attention' or 'first token only'.
        masks_in_combine: `combine` returns -inf for some tokens, because its mask depends on several branches.
        draws_random_numbers: The scores depend on the random stream of the query.
        keeps_state: The scores depend on values that earlier steps stored in `StepState.memory`.
        combines_notes: The scores depend on `StepState.note`. It must be JSON, because other processes receive it.
        combines_options: Option scoring passes the log-probabilities of whole options, [n, B, options], to `mask` and
            `combine` instead of token logits.
        requires_options: The strategy scores options only and cannot generate text.
        sums_first_tokens: With `combines_options`: the score of an option is the summed probability of the first
            tokens of all its spellings.
        is_control: The strategy isolates one ingredient of another one. It has no controls of its own.
        is_gated: The contrast is skipped at steps where `reference_decides`, so engines may leave its branches unread.
        reads_paired_prompt: The branches also depend on the prompt of another sample (`Prompt.paired_prompt`).
        reads_early_exits: Logits of the reference's early layers follow the branches' logits, lowest layer first.
        preserves_argmax: A wrapper that ranks the unmasked tokens as the reference does. Greedy decoding with it
            therefore equals greedy decoding of the reference (`decoding.arms.equivalence`).
        rewrites_prompt: The last branch alone gives the answer. A model without logits generates it from this prompt.
        fallback: Name of the strategy to suggest for models that cannot run this one.
        num_samples: Number of answers to generate; the most frequent one is returned (`decoding.engine.voting`).
        judge: A text with {question} and {answer} that replaces the question, and a word: the answer after which the
            word has the highest log-probability is returned instead of the most frequent one. None: the vote.
        judge_model: The model with sessions that judges. None: the model that answers.
        demonstration_factor: The prompt shows this many times the number of shots of the run.
        rows_per_beam: Above 0, the strategy searches for whole answers itself (`Strategy.search`), with this many rows
            for each beam of its sampler.
    """

    needs: frozenset[str] = frozenset({"logits"})
    masks_in_combine: bool = False
    draws_random_numbers: bool = False
    keeps_state: bool = False
    combines_notes: bool = False
    combines_options: bool = False
    requires_options: bool = False
    sums_first_tokens: bool = False
    is_control: bool = False
    is_gated: bool = False
    reads_paired_prompt: bool = False
    reads_early_exits: bool = False
    preserves_argmax: bool = False
    rewrites_prompt: bool = False
    fallback: str = ""
    num_samples: int = 1
    judge: tuple[str, str] | None = None
    judge_model: Any = None
    demonstration_factor: int = 1
    rows_per_beam: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(self.needs))


TRAITS = tuple(f.name for f in fields(Traits))


def check_trait_names(cls: type, base: type) -> None:
    """Refuses class attributes that are traits or resemble one, and parameters that hide a method of `base`.

    Such an attribute would otherwise be ignored. Complements `icl.registry.check_member_names`.

    Raises:
        TypeError: The first such name, with the correction.
    """
    parameters = {name for name, hint in get_annotations(cls).items() if "ClassVar" not in str(hint)}
    for name in parameters:
        if not name.startswith("_") and callable(getattr(base, name, None)):
            raise TypeError(
                f"{cls.__name__}: the parameter '{name}' hides the method {base.__name__}.{name}. Rename the field; "
                f"icl.registry.parameter('{name}', default) keeps the key of the config."
            )
    for name in vars(cls):
        if name.startswith("_") or name in parameters or hasattr(base, name):
            continue
        if matches := get_close_matches(name, TRAITS, n=1, cutoff=SIMILARITY):
            raise TypeError(
                f"{cls.__name__}.{name} is not a member of {base.__name__}. Did you mean the trait "
                f"'{matches[0]}', as in "
                f"traits = Traits({matches[0]}=...)?"
            )


class Strategy:
    """Base of all strategies. As it stands it is greedy decoding of the prompt: one branch and its own logits.

    Attributes:
        presets: Named parameter sets, one per source (paper, released code).
        neutral_parameters: Parameters that make the scores equal the reference's scores under the mask (alpha = 0).
        control_rank: Position among the default controls, lowest first.
    """

    presets: ClassVar[dict[str, dict[str, float]]] = {}
    neutral_parameters: ClassVar[Mapping[str, float] | None] = None
    control_rank: ClassVar[int] = 100

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_member_names(cls, Strategy)
        check_trait_names(cls, Strategy)

    @property
    def traits(self) -> Traits:
        """What engines and planners must know about the strategy. Subclasses set `traits = Traits(...)`."""
        return Traits()

    @classmethod
    def control_for(cls, target: Any) -> Any:
        """The arm that `controls: default` adds for a `decoding.arms.arm.ControlTarget`, or None.

        A control returns `target.with_strategy(Mine(target.strategy))`.
        """
        return None

    @property
    def is_unfitted(self) -> bool:
        """Whether the strategy equals its reference because its parameters have not been fitted (`icl fit`)."""
        return False

    @property
    def sampler(self) -> Sampler:
        """How a token is chosen from the combined scores, unless the config names a sampler."""
        return Greedy()

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Constant weights of the branches, or None if they vary. Their sum is a hidden inverse temperature.

        The weights of a strategy that does not override this are measured
        (`decoding.arms.inspection.constant_weights`).
        """
        return (1.0,)

    def strength(self, logits: Tensor, step: int) -> Tensor:
        """The sum of the branch weights, for strategies with varying weights: logits [n, B, V] -> [B, 1]."""
        raise NotImplementedError(f"{type(self).__name__} has weights that vary and does not define `strength`")

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[Note]:
        """Generates what the branches of a batch depend on. Returns one note per prompt; by default None.

        A strategy that needs 'interventions' may observe the prompts: engines then pass an `ObservingGenerate`. Checks
        that run without a model do not.
        """
        return [None] * len(prompts)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompts to read. Branch 0 is the reference."""
        return (prompt,)

    def mask(self, reference: Tensor) -> Tensor | None:
        """Tokens that stay possible: logits of branch 0, [B, V] float32 -> [B, V] bool, or None for all tokens."""
        return None

    def reference_decides(self, reference: Tensor) -> Tensor | None:
        """Rows in which the other branches cannot change the distribution.

        Engines may leave the other branches unread in these rows and pass the reference in their place. By default
        these are the rows in which the mask leaves one token, which is then chosen, even if `combine` differs.

        Args:
            reference: Logits of branch 0, [B, V] float32.

        Returns:
            [B] bool, or None if there are never such rows.
        """
        mask = None if self.traits.masks_in_combine else self.mask(reference)
        return None if mask is None else mask.sum(-1) == 1

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """Scores from the logits of all branches: [n, B, V] float32 -> [B, V]. -inf rules a token out."""
        return logits[0]

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """`combine` for a strategy that draws random numbers, or depends on earlier steps or the prompt's note.

        Engines call this method.

        An engine may call it twice for one step; both calls must return the same scores.

        Args:
            logits: [n, B, V] float32.
            step: Number of the token, from 0.
            states: State of each of the B rows.
        """
        return self.combine(logits, step)

    def search(self, beams: Beams) -> None:
        """Chooses tokens until no beam runs, for a strategy with the trait `rows_per_beam` and one branch.

        Engines call it once per answer, with the beams of that answer alone. Its branch may carry an intervention that
        changes nothing and stores what the model computes.
        """
        while not beams.is_over:
            beams.choose(beams.logits)


class PlausibleStrategy(Strategy):
    """Base of strategies that keep the tokens with at least `beta` times the best token's probability."""

    beta: float

    def mask(self, reference: Tensor) -> Tensor | None:
        return plausibility_mask(reference, self.beta)


class ContrastStrategy(Strategy):
    """Base of strategies that contrast branch 0 with branch 1: scores = (1 + alpha) z_0 - alpha z_1.

    The weights sum to one, so identical branches do not change the distribution.
    """

    alpha: float
    neutral_parameters: ClassVar[dict[str, float]] = {"alpha": 0.0}

    @property
    def weights(self) -> tuple[float, float]:
        return 1 + self.alpha, -self.alpha

    def combine(self, logits: Tensor, step: int) -> Tensor:
        """logits: [2, B, V] float32 -> scores [B, V]."""
        scores: Tensor = self.weights[0] * logits[0] + self.weights[1] * logits[1]
        return scores


class UnitSumStrategy(Strategy):
    """Base of strategies with weights that vary, by step, row or token, and always sum to one."""

    weights: ClassVar[None] = None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)


class StatefulStrategy(Strategy):
    """Base of strategies that define `combine_stateful`. `combine` calls it with initial states."""

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return self.combine_stateful(logits, step, [InitialStepState() for _ in range(logits.shape[1])])


def unit_strength(logits: Tensor) -> Tensor:
    """[B, 1] ones: the strength of weights that vary and sum to one. logits: [n, B, V]."""
    return logits.new_ones(logits.shape[1], 1)


def zero_strength(logits: Tensor) -> Tensor:
    """[B, 1] zeros: the strength of weights that cancel for identical branches. logits: [n, B, V]."""
    return logits.new_zeros(logits.shape[1], 1)


LAYER_KEYS = ("layer", "layers", "first_layer", "last_layer")
"""Names of parameters that are numbers of layers of the model, in every method."""
ALL_LAYERS = {"first_layer": 0, "last_layer": -1}
"""Values of these parameters that every model has."""


@dataclass(frozen=True)
class SteeringMethod:
    """Base of all steering methods. As it stands it changes nothing.

    Parameters named in `LAYER_KEYS` are layer numbers. The plan refuses layers that the model lacks.

    Attributes:
        acts_in: The part of a reasoning output in which its edits act (`icl.models.interventions.PartEdit`).
        needs: What the model must provide.
        reads_demonstrations: Whether it reads the demonstrations of the prompt, so that 0 shots make no sense.
    """

    _: KW_ONLY
    acts_in: ActsIn = later_parameter("both")  # part of a reasoning output where edits act; both: in the prompt, too

    needs: ClassVar[frozenset[str]] = frozenset({"interventions"})
    reads_demonstrations: ClassVar[bool] = False

    @property
    def neutral(self) -> bool:
        """Whether the method changes nothing."""
        return True

    @property
    def min_shots(self) -> int:
        """Fewest demonstrations that it makes sense with. Default controls are left out below it."""
        return int(self.reads_demonstrations)

    @property
    def acts_on_output(self) -> bool:
        """Whether it edits the last token of the prompt or generated tokens, among which `acts_in` chooses."""
        return True

    @property
    def config(self) -> dict[str, Any] | None:
        """The canonical config node: everything that affects the answers. None: nothing does."""
        node: dict[str, Any] = describe(self)
        return node

    @property
    def revision(self) -> int:
        """Number of the version of its arithmetic. Digests of cells contain it from 2 on, so a new one recomputes them.

        2 with `acts_in`: the answer begins at a closing marker that the thinking budget forces.
        """
        return 1 if self.acts_in == "both" else 2

    @property
    def source(self) -> VectorFile | None:
        """The file that the method reads, or None."""
        return None

    @property
    def labelled_items(self) -> int:
        """Number of labeled queries that its fit used. 0: it has no file."""
        return 0

    @property
    def option_biases(self) -> tuple[float, ...]:
        """Biases of `constant_bias` that were fitted on the same queries. Empty if none were, or none helps."""
        return ()

    def problem(self) -> str | None:
        """Why the method cannot run, before anything loads. None if it can."""
        return None

    def model_problem(self, model: Model) -> str | None:
        """Why the method cannot run on a model, before it is loaded. None if nothing speaks against it."""
        return layer_problem(self, model)

    def check(self, model: HF) -> None:
        """Raises ModelError if the loaded model lacks a site, or has another width."""

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        """The prompts with their interventions, in the same order.

        Args:
            prompts: Prompts of one batch.
            model: The loaded model. The method may observe its states.
        """
        return prompts

    def controls(self) -> "tuple[SteeringMethod, ...]":
        """The controls that `controls: default` adds."""
        return ()


def layer_problem(method: SteeringMethod, model: Model) -> str | None:
    """The sentence about the first of `LAYER_KEYS` that is none of the model's layers. None if all are."""
    named = {key: value for key in LAYER_KEYS if (value := getattr(method, key, None)) is not None}
    if not named or named == ALL_LAYERS or (count := model.num_layers) is None:
        return None
    for key, value in named.items():
        for number in [value] if isinstance(value, int) else value:
            if missing := missing_layer(number, count):
                return f"{key}: {missing}"
    first, last = (named.get(key, default) for key, default in ALL_LAYERS.items())
    if first % count > last % count:
        return f"first_layer {first} is above last_layer {last}, so no layer is left."
    return None


def missing_layer(number: int, count: int) -> str | None:
    """The sentence about a layer that a model of `count` layers lacks. None if it has it."""
    if -count <= number < count:
        return None
    return f"the model has no layer {number}. Its {count} layers are 0 to {count - 1}; -1 is the last."
