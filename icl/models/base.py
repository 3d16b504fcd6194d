"""Base classes of model backends, and the interface of the sessions that a backend with logits opens.

Every model generates text. A model that gives next-token logits also opens a `Session`; the engines of `decoding` then
run any strategy on it. A model without logits (an endpoint, most fakes) only answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, ClassVar, Protocol

from icl import (
    REASONING_MARKERS,
    Example,
    Generation,
    ICLError,
    Image,
    ModelError,
    Prompt,
    ReasoningMarkers,
    Tensor,
    TokenPart,
    check_member_names,
    models,
)
from icl.memory import first_line, is_out_of_memory
from icl.models import hf
from icl.user_errors import convert_user_errors

MAX_NEW_TOKENS = 16
"""Default length limit of an answer. Most answers are a few words."""

ABILITIES = ("generate", "logits", "strategies", "score", "hidden_states", "embed", "text_logprobs", "interventions")
"""What a model can do.

generate: answer a prompt. logits: open sessions. strategies: run every decoding strategy inside its own engine.
score: log-probabilities of whole options. hidden_states: sessions with early exits. embed: `embed(prompts)`.
text_logprobs: log-probabilities of a text within a prompt. interventions: edits of hidden states that prompts carry.
"""

OnAnswer = Callable[[int, "Generation | str"], None]
"""Receives the index of a request and its answer, or the reason why there is none."""


@dataclass(frozen=True)
class Request:
    """A prompt for a model that answers without a session.

    Attributes:
        prompt: The prompt.
        options: Answer options of the query.
        max_new_tokens: Length limit of the answer in tokens.
        max_thinking_tokens: Length limit of its reasoning block in tokens, if `Model.thinking_budget_refusal` is None.
            None: the block counts as answer.
        demos: Demonstrations with their similarity, in prompt order. Filled for models with 'demos' in `needs`.
        gold: Accepted answers. Filled for models with 'gold' in `needs`.
        score_options: Whether log-probabilities of the options are needed.
        strategy: Config node of a strategy with its `sampling`, for a server that runs strategies.
        normalize: How such a server normalizes option scores.
        top: Number of tokens that its trace keeps for each branch and step.
        reasoning: What the reasoning block before options contains, for such a server.
    """

    prompt: Prompt
    options: tuple[str, ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS
    demos: tuple[tuple[Example, float], ...] = ()
    gold: tuple[str, ...] = ()
    score_options: bool = False
    strategy: Mapping[str, Any] | None = None
    normalize: str = "sum"
    top: int = 0
    max_thinking_tokens: int | None = None
    reasoning: str = ""


class Model(ABC):
    """Base class of all models.

    A subclass defines `abilities`, `digest`, `count_tokens`, and `generate` unless it only opens sessions. Everything
    else has a default. A public name that resembles a member of this class is an error when the class is created.

    Attributes:
        abilities: What the model can do, a subset of `ABILITIES`.
        needs: 'gold' or 'demos' for oracles and fakes that read them from the request.
        supports_adapters: Whether the `adapter` parameter loads a LoRA adapter.
        quantizations: Settings of quantization that the model can run in.
        abilities_when_served: Abilities that the class has only if its server is `icl serve`.
        is_endpoint: Whether another process answers, to which prompts are sent as chat messages.
        counts_exactly: Whether `count_tokens` is exact. False for an estimate.
        generate_batch_size: Requests in one call of `generate`. A killed run loses at most so many answers.
        plans_prompt_sizes: Whether `expect_prompts` must be called before `load`.
        owns_gpu: Whether its engine takes the GPU for itself, so that embedders run on the CPU.
    """

    abilities: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]] = frozenset()
    supports_adapters: ClassVar[bool] = False
    quantizations: ClassVar[tuple[str, ...]] = ()
    abilities_when_served: ClassVar[frozenset[str]] = frozenset()
    is_endpoint: ClassVar[bool] = False
    counts_exactly: ClassVar[bool] = True
    generate_batch_size: ClassVar[int] = 32
    plans_prompt_sizes: ClassVar[bool] = False
    owns_gpu: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_member_names(cls, next(parent for parent in cls.__mro__[1:] if parent.__module__ == __name__))

    @property
    @abstractmethod
    def digest(self) -> str:
        """Name of weights and settings. Equal digests give equal outputs."""

    @abstractmethod
    def count_tokens(self, prompt: Prompt) -> int:
        """Number of tokens of the rendered prompt, including each image at the size that this model gives it."""

    @property
    def model_revision(self) -> str:
        """The hub id and commit of its checkpoint, as "owner/name@commit"; '' for any other model."""
        return ""

    @property
    def max_tokens(self) -> int | None:
        """Context length in tokens, prompt and answer together. None if there is no limit."""
        return None

    @property
    def num_layers(self) -> int | None:
        """Number of the decoder's layers, before the model is loaded. None if it is unknown."""
        return None

    @property
    def image_token_problem(self) -> str | None:
        """Why images have no tokens in prompts that an intervention could name, before the model is loaded."""
        return None

    @property
    def max_images(self) -> int | None:
        """Number of images that the user allows in a prompt. None if there is no limit."""
        return None

    @property
    def token_budget(self) -> int | None:
        """Padded tokens that fit into one prefill. None if the model has no preference."""
        return None

    @property
    def max_batch_tokens(self) -> int | None:
        """Tokens of all rows of a batch, prompts and answers together. None if the model has no preference."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the log of a run, available after `load`."""
        return ()

    @property
    def plan_notes(self) -> tuple[str, ...]:
        """Messages for the plan of a run, available before `load`."""
        return ()

    @property
    def device_type(self) -> str:
        """'cpu', or the kind of accelerator on which it computes in this process."""
        return "cpu"

    def gpu_bytes(self, total: float) -> float:
        """Bytes of a GPU of `total` bytes that the model needs once it is loaded, available before `load`."""
        return 0.0

    def memory_plan(self, request: "hf.RequestSize", device: float) -> "hf.MemoryPlan | None":
        """What the model needs on a device of so many bytes, available before `load`. None if nothing is known."""
        return None

    def check_memory(self, requests: "Iterable[hf.RequestSize]") -> None:  # noqa: B027
        """Raise ModelError if one of the model's requests cannot fit into the free memory, before `load`.

        Args:
            requests: Its largest requests. They are counted as they are read.
        """

    def probe_server(self, prompt: Prompt) -> Mapping[str, Any] | None:
        """What a probe says of the server that will answer prompts of this shape. None if there is nothing to probe.

        Raises:
            ModelError: The server does not read such prompts as they are sent.
        """
        return None

    @property
    def not_ready(self) -> str:
        """Why it is not known yet what this instance can do, if its server is starting. '' if it is known."""
        return ""

    @property
    def strategies_hint(self) -> str:
        """Why this instance cannot run strategies, if its server decides that. Appended to the error message."""
        return ""

    def strategy_refusal(self, node: Mapping[str, Any]) -> str | None:
        """Why the model's server does not run the strategy of a config node, or None if it does."""
        return None

    def thinking_budget_refusal(self) -> str | None:
        """Why `max_thinking_tokens` cannot limit the model's reasoning, or None if it can."""
        return "this model cannot limit its reasoning: remove max_thinking_tokens, or use the model 'hf' or 'vllm'."

    def expect_prompts(self, images: int, tokens: int, branches: int) -> None:  # noqa: B027
        """Prepare for the largest prompt of a run, before `load`.

        Args:
            images: Number of images in a prompt.
            tokens: Number of tokens of prompt and answer together.
            branches: Number of prompts that decode one answer together.
        """

    def set_day(self, day: date) -> None:  # noqa: B027
        """Write prompts as on a day, before `load`: some chat templates write the date. By default today."""

    def check_loadable(self) -> None:  # noqa: B027
        """Raise ModelError if `load` cannot work here: no weights, no package. A plan needs neither, and says so."""

    def load(self) -> None:  # noqa: B027
        """Read the weights. Calling it again does nothing. Raises ModelError."""

    def unload(self) -> None:  # noqa: B027
        """Free memory and connections after the last cell of a run."""

    def enable_threads(self) -> bool:
        """Whether other threads may call `count_tokens` while the loaded model answers. Called before they do."""
        return False

    def counters(self) -> Mapping[str, int]:
        """Work done since loading, such as `prompt_tokens` or `images_encoded`. Empty if nothing is counted."""
        return {}

    @property
    def template_facts(self) -> "hf.TemplateFacts | None":
        """What the chat template of the model does, or None if it is not known. Raises ModelError."""
        return None

    @property
    def reasoning_block(self) -> ReasoningMarkers | None:
        """The markers of the reasoning block that the model's chat template writes, or None if it is not known."""
        return None

    def render(self, prompt: Prompt) -> str | None:
        """The prompt as the model's processor writes it, with one placeholder for each image. None if unknown."""
        return None

    def tokens_of_image(self, image: Image) -> tuple[int, int] | None:
        """Tokens of an image alone in a prompt, and those under the checkpoint's own settings. None if unknown."""
        return None

    def prefix_blocks(self, prompt: Prompt) -> tuple[int, list[int]] | None:
        """Blocks of the prompt that a prefix cache can hold.

        Returns:
            Tokens in a block, and one hash for each whole block. Equal hashes mean equal prefixes. None if the model
            has no prefix cache.
        """
        return None

    def tracer(self) -> "models.Tracer":
        """Shows the way of a prompt to its answer, stage by stage, for `icl doctor backends`."""
        return models.Tracer(self)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Greedy answers, one for each request. Raises ModelError if the model decodes through sessions only."""
        raise ModelError(
            f"{type(self).__name__} answers through sessions: use `decoding.engine.engine.run_requests`, which runs "
            "any strategy on it."
        )

    def generate_each(self, requests: Sequence[Request], on_answer: OnAnswer) -> None:
        """Call `on_answer` for each request as soon as its answer is available.

        This default calls `generate` in batches. It halves a batch that fails, so that only the request at fault fails.

        Raises:
            ModelError: `generate` returned a wrong number of answers.
        """
        for start in range(0, len(requests), self.generate_batch_size):
            batch = requests[start : start + self.generate_batch_size]
            for index, answer in enumerate(self._generate_halving(batch)):
                on_answer(start + index, answer)

    def _generate_halving(self, requests: Sequence[Request]) -> "list[Generation | str]":
        answers: list[Generation | str]
        try:
            with convert_user_errors(self):
                answers = list(self.generate(requests))
        except Exception as error:
            is_own = isinstance(error, ICLError)
            if not is_own and not is_out_of_memory(error):
                raise
            if len(requests) == 1:
                return [str(error) if is_own else f"out of memory with this prompt alone ({first_line(error)})."]
        else:
            if len(answers) != len(requests):
                raise ModelError(f"the model returned {len(answers)} answers for {len(requests)} requests.")
            return answers
        middle = len(requests) // 2
        return [*self._generate_halving(requests[:middle]), *self._generate_halving(requests[middle:])]


class Session(Protocol):
    """A batch of prefilled rows, each with its own KV cache entries and positions.

    Each row is `[padding | tokens]`. `take` and `join` leave their sources unchanged. `retain`, `absorb`, `advance` and
    `extend` work in place. Rows never share memory that one of them writes to.
    """

    @property
    def logits(self) -> "Tensor":
        """[R, V] float32, after the last token of each row."""
        ...

    @property
    def early_exit_logits(self) -> "Tensor":
        """[early layers, R, V] after the last token of each row, the lowest layer first.

        Early layers are read through the model's output layer. Only a model with the ability 'hidden_states' opens
        sessions with early exits.

        Raises:
            ModelError: The session was opened without early exits.
        """
        ...

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Sequence[int]:
        """[R], the number of tokens of each row."""
        ...

    def take(self, rows: "Tensor") -> "Session":
        """Select, drop, repeat or reorder rows, as a new session.

        Args:
            rows: [R'] int64, on the host unless the caller computed it on the device.
        """
        ...

    def retain(self, rows: "Tensor") -> None:
        """As `take`, in place, so that old and new rows need not be in memory together. rows: as for `take`."""
        ...

    def join(self, other: "Session") -> "Session":
        """The rows of both sessions, this session's first."""
        ...

    def absorb(self, other: "Session") -> None:
        """As `join`, in place. The other session is used up."""
        ...

    def advance(self, tokens: "Tensor", parts: "Sequence[TokenPart]" = ()) -> None:
        """Append one token to every row.

        Args:
            tokens: [R] int64.
            parts: The part of the output that each token leads on to, for interventions that act in one part.
        """
        ...

    def extend(self, chunks: Sequence[Sequence[int]], parts: "Sequence[Sequence[TokenPart]]" = ()) -> None:
        """Append at least one token to every row. Chunks may differ in length. parts: as in `advance`."""
        ...

    def trim(self) -> None:
        """Free the slots that are padding in every row."""
        ...

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> "list[list[Tensor]]":
        """Score continuations of each row without changing the rows.

        Args:
            suffixes: For each row, token ids of its continuations.

        Returns:
            For each row and continuation: [len(suffix), V] log-probabilities before each of its tokens. The first entry
            comes from this session's own `logits`.
        """
        ...

    def suffix_early_exit_logits(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> "list[list[Tensor]]":
        """As `suffix_logprobs`, for the early layers: [early layers, len(suffix), V]."""
        ...


class LogitModel(Model):
    """Base class of models that open sessions. Token ids and text come from the model's tokenizer."""

    @property
    @abstractmethod
    def stop_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""

    def tracer(self) -> "models.Tracer":
        return models.SessionTracer(self)

    @property
    def shares_prefix(self) -> bool:
        """Whether `open` can reuse what the rows of another session have read (`prefix_source`)."""
        return False

    @abstractmethod
    def open(
        self, prompts: Sequence[Prompt], *, early_exits: bool = False, prefix_source: Session | None = None
    ) -> Session:
        """Prefill prompts. Row i is prompt i.

        Args:
            prompts: At least one prompt.
            early_exits: Whether the session has `early_exit_logits`.
            prefix_source: A session of this model. Its rows may be reused if the model `shares_prefix`. It stays
                unchanged.

        Raises:
            ModelError: A prompt does not fit, or its text cannot be rendered.
            ImageError: An image cannot be read.
        """

    def prepare_ahead(self, prompts: Sequence[Prompt]) -> None:
        """Do what `open` will do on the host for these prompts, such as processing images, and cache it.

        Called from another thread while the model decodes. By default nothing. Raises as `open`.
        """

    @property
    def row_overhead(self) -> int:
        """What a row of a batch needs besides its tokens, such as its logits, in tokens of `max_batch_tokens`."""
        return 0

    def free_buffers(self) -> None:
        """Free memory that can be filled again. Called after a batch ran out of memory."""
        return

    @property
    def tokenizer(self) -> Any:
        """The `transformers` tokenizer, for stop strings. Raises ModelError if the model has no tokenizer."""
        raise ModelError(f"{type(self).__name__} has no tokenizer, which stop strings need.")

    def token_ids(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of the prompt with all image placeholders, as logits processors read them. Raises ModelError."""
        raise ModelError(f"{type(self).__name__} does not return token ids of prompts, which logits processors need.")

    @abstractmethod
    def text(self, tokens: Sequence[int]) -> str:
        """Decode the tokens of an answer, without special tokens."""

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        """The prompt with all text that the chat template writes before an answer, such as an empty reasoning block.

        Options are scored, and answers are trained, after this prompt. By default it is the prompt itself.

        Args:
            prompt: The prompt.
            reasoning: What the reasoning block contains.
        """
        if not reasoning:
            return prompt
        markers = REASONING_MARKERS[0]
        return replace(prompt, answer_start=f"{markers.opening}{reasoning}{markers.forced}")

    @abstractmethod
    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        """Token ids of each option as it follows the prompt, from tokenizing prompt and option together.

        Args:
            prompt: A prompt of `before_answer`.
            options: The options.
        """
