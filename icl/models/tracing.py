"""What a backend shows of a prompt on its way to an answer, stage by stage, so that two backends can be compared.

Each backend has a `Tracer` in a file of its own. A stage that it cannot show is None in its traces, and `Tracer.hidden`
says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import distributions
from typing import Any

from icl import Tensor, np, torch
from icl.models.base import Request
from icl.types import Prompt

STEPS = 12
"""Greedy tokens of a trace, at most."""
TOP = 20
"""Log-probabilities of each trace, which servers limit."""
WEIGHTS = "digest of weights"  # the fact that tells checkpoints of one size apart
Facts = Mapping[str, Mapping[str, Any]]


class Stage(StrEnum):
    """The way of a prompt, in order."""

    PROMPT = "prompt"  # turns, texts and images as the study composes them
    TEXT = "rendered text"
    IDS = "token ids"  # without the tokens of images
    IMAGES = "images"  # their number, tokens and sizes
    PIXELS = "pixel values"
    FEATURES = "image features"
    FIRST = "first step"  # log-probabilities
    TOKENS = "generated tokens"


@dataclass(frozen=True)
class Trace:
    """What a backend shows of one prompt. None, or empty: hidden.

    Attributes:
        text: The rendered prompt, with one placeholder for each image.
        ids: Token ids of the prompt, with all tokens of its images.
        prompt_tokens: Their number.
        pixels: For each image, float32 [..., 3, H, W] or [patches, values], without leading axes of size one.
        features: For each image, float32 [tokens, width].
        top: Likeliest first tokens as text -> log-probability. Of several with one text, the likeliest counts.
        tokens: Greedy tokens as texts, without the one that ends the answer.
        margins: At each of these steps, nats between the best two tokens; also at the one that ends the answer.
        answer: The greedy answer.
        stopped: Whether the answer has ended.
        error: Why a part is missing, if the backend refuses the prompt.
    """

    text: str | None = None
    ids: tuple[int, ...] | None = None
    prompt_tokens: int | None = None
    pixels: "tuple[np.ndarray, ...] | None" = None
    features: "tuple[np.ndarray, ...] | None" = None
    top: Mapping[str, float] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()
    margins: tuple[float, ...] = ()
    answer: str = ""
    stopped: bool = False
    error: str = ""


class Tracer:
    """Traces prompts through one backend. By default it shows answers alone."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def hidden(self) -> Mapping[Stage, str]:
        """Stages that this backend cannot show, with the reason."""
        return dict.fromkeys(list(Stage)[1:-1], f"{type(self.model).__name__} only answers")

    @property
    def image_edge(self) -> int | None:
        """Side in pixels of a square image that the checkpoint's own settings do not resize. None if unknown."""
        return None

    @property
    def facts(self) -> Facts:
        """Settings that can change a stage, as JSON values: group -> name -> value.

        Groups: checkpoint (whose sizes differ between any two models), weights, arithmetic, template, tokenizer,
        images, versions.
        """
        return {}

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        """The trace of a prompt.

        Args:
            prompt: The prompt.
            raw_images: Whether a server gets images as they are in their files, with transparency. A run never does
                this: it flattens transparent pixels on white.

        Raises:
            ModelError: The backend does not take the prompt.
            ImageError: An image cannot be read.
        """
        [generation] = self.model.generate([Request(prompt, max_new_tokens=STEPS)])
        return Trace(answer=generation.text, stopped=generation.finish == "stop")


class SessionTracer(Tracer):
    """Shows the steps of a session, for backends that open one."""

    @property
    def hidden(self) -> Mapping[Stage, str]:
        return dict.fromkeys(list(Stage)[2:-2], f"not visible in {type(self.model).__name__}")

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        session, steps = self.model.open([prompt]), list[dict[int, float]]()
        while not steps or (len(steps) < STEPS and next(iter(steps[-1])) not in self.model.stop_tokens):
            if steps:
                session.advance(torch.tensor([next(iter(steps[-1]))]))
            steps.append(top_logprobs(session.logits[0]))
        return greedy_trace(self.model, steps, text=self.model.render(prompt))


def top_logprobs(logits: Tensor) -> dict[int, float]:
    """The TOP likeliest tokens with their log-probabilities, the likeliest first. logits: [V]."""
    values, ids = logits.float().log_softmax(-1).topk(min(TOP, len(logits)))
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


def greedy_trace(model: Any, steps: Sequence[Mapping[int, float]], **inputs: Any) -> Trace:
    """A trace from the likeliest tokens of each step.

    Args:
        model: Has a tokenizer, `stop_tokens` and `text`.
        steps: For each step, token id -> log-probability.
        inputs: Fields of the trace that precede the first step.
    """
    decode, chosen = model.tokenizer.decode, [max(step, key=step.__getitem__) for step in steps]
    stopped = bool(chosen) and chosen[-1] in model.stop_tokens
    tokens = chosen[:-1] if stopped else chosen
    first = sorted(steps[0].items(), key=lambda item: item[1]) if steps else ()
    return Trace(
        top={decode([token]): value for token, value in first},  # the likeliest of equal texts comes last
        tokens=tuple(decode([token]) for token in tokens),
        margins=tuple(map(margin, steps)),
        answer=model.text(tokens),
        stopped=stopped,
        **inputs,
    )


def margin(step: Mapping[Any, float]) -> float:
    """Nats between the best two tokens of a step; 0 if it lists one."""
    best, *others = sorted(step.values(), reverse=True)
    return best - others[0] if others else 0.0


def to_array(values: Tensor) -> "np.ndarray":
    """float32 on the host, without leading axes of size one, which backends add or leave out."""
    array: np.ndarray = values.detach().float().cpu().numpy()
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def package_versions(*names: str) -> dict[str, str]:
    """The versions of installed packages."""
    return {one.name: one.version for one in distributions() if one.name in names}
