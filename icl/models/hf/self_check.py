"""What holds for this checkpoint is asked of it once, when it is loaded, and not of a list of architectures.

Does a prompt whose images come from the cache have the ids and the logits of the processor's own? Does a prompt on
top of a shared beginning? Where the answer is no, or an exception, the plain way is taken for this model, and the
reason is kept for the plan to tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icl.errors import ICLError, ModelError
from icl.images import Image
from icl.models.hf import conventions
from icl.models.hf import quantization as quantizing
from icl.models.hf.image_processing import ImageProcessor
from icl.models.hf.language_model import EncodedPrompt, LanguageModel
from icl.models.hf.prefill import Prefiller
from icl.models.hf.prompt_encoding import PromptEncoder, processed
from icl.models.hf.rendering import PromptRenderer
from icl.types import Part, Prompt, Turn

FAILURES = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError, ICLError)
"""What an architecture that works otherwise may raise when it is asked."""


@dataclass(frozen=True)
class CheckResult:
    """holds: whether the short way may be taken. reason: why not."""

    holds: bool
    reason: str = ""


def image_cache(cached: PromptEncoder, plain: PromptEncoder, runner: LanguageModel) -> CheckResult:
    """Compares ids and logits of two prompts, with images of several sizes, with and without the cache."""

    def ask() -> CheckResult:
        prompts = _taken(_prompts(), plain)  # read together: images meet the tower in another company than in `plain`
        for want, got in zip(plain.read(prompts), cached.read(prompts), strict=True):
            if want.ids.tolist() != got.ids.tolist():
                return CheckResult(False, "the token ids differ from the processor's own")
            gap = _gap(runner.prefill([want]).logits, runner.prefill([got]).logits)
            if not gap <= _tolerance(runner):
                return CheckResult(False, f"the logits differ by {gap:.1e} of their spread")
        return CheckResult(True)

    return _asked(ask)


def shared_beginnings(reader: PromptEncoder, runner: LanguageModel) -> CheckResult:
    """Compares logits of two prompts that begin alike: prefilled whole, on top of their common beginning, and on the
    row of the first, where it can lend."""

    def ask() -> CheckResult:
        first, second = _prompts()[:2]
        alike = [first, Prompt((*first.turns[:-1], *second.turns)), *_single_turns()]
        reads: list[EncodedPrompt] = reader.read(_taken(alike, reader)[:2])
        want = Prefiller(runner, 10**9, sharing=False).open(reads).logits
        before = runner.counters.prefill_tokens
        opener = Prefiller(runner, 10**9, least=1)
        rows = opener.open(reads)
        if runner.counters.prefill_tokens - before >= sum(map(len, reads)):
            return CheckResult(False, "the two prompts that should begin alike do not")
        beside = opener.open(reads, prefix_source=Prefiller(runner, 10**9, sharing=False).open(reads[:1]))
        gap = max(_gap(want, rows.logits), _gap(want, beside.logits))
        return CheckResult(gap <= _tolerance(runner), f"the logits differ by {gap:.1e} of their spread")

    return _asked(ask)


def plain_reading(plain: PromptEncoder, runner: LanguageModel, path: str) -> None:
    """One prompt with an image, all by the processor itself. Raises ModelError where not even that can be read.

    What the chat template refuses is told with each prompt.
    """
    try:
        runner.prefill([plain.read(_taken(_prompts(), plain)[:1])[0]])
    except FAILURES as error:
        if isinstance(error, ICLError | torch.OutOfMemoryError):
            return
        raise conventions.mismatch(error, runner.model, path) from error


def counts_by_parts(renderer: PromptRenderer, pixels: ImageProcessor) -> bool:
    """Whether a prompt has as many tokens as its text and its images, each processed by itself."""

    def ask() -> CheckResult:
        prompt = _prompts()[1]
        texts = [pixels.text(image, 1) for image in prompt.images]
        parts = len(renderer.ids(renderer.expanded(renderer.text(prompt), texts)))
        return CheckResult(parts == processed(renderer, prompt)["input_ids"].shape[-1])

    return _asked(ask).holds


def _prompts() -> list[Prompt]:
    """A demonstration and a query, a query alone, and two images in one turn; images of several sizes."""
    demo = (_ask("what is it?", _image(96, 64)), Turn("assistant", (Part("a cat"),)))
    return [
        Prompt((*demo, _ask("what is it?", _image(64, 128)))),
        Prompt((_ask("what color is it?", _image(120, 88)),)),
        _single_turns()[0],
    ]


def _single_turns() -> list[Prompt]:
    """Two prompts that begin with the same two images."""
    shown = (_image(96, 64), _image(64, 128))
    return [Prompt((_ask(question, *shown),)) for question in ("which is larger?", "are they the same thing?")]


def _image(width: int, height: int) -> Part:
    from PIL import Image as PILImage

    noise = torch.Generator().manual_seed(width)
    pixels = torch.randint(0, 256, (height // 8, width // 8, 3), generator=noise, dtype=torch.uint8).numpy()
    return Part(Image.from_pil(PILImage.fromarray(pixels).resize((width, height)), "self-check"))


def _ask(question: str, *images: Part) -> Turn:
    return Turn("user", (*images, Part(question)))


def _taken(prompts: list[Prompt], reader: PromptEncoder) -> list[Prompt]:
    """Those that the chat template takes. Raises its ModelError where it takes none."""
    taken: list[Prompt] = []
    refused: ModelError | None = None
    for prompt in prompts:
        try:
            reader.renderer.text(prompt)
            taken.append(prompt)
        except ModelError as error:
            refused = error
    if refused is not None and not taken:
        raise refused
    return taken


def _gap(want: Tensor, got: Tensor) -> float:
    return float((want - got).abs().max() / want.std().clamp(min=1e-6))


def _tolerance(runner: LanguageModel) -> float:
    return 1e-3 if quantizing.is_exact(runner.model) else 0.25


def _asked(ask: Callable[[], CheckResult]) -> CheckResult:
    try:
        return ask()
    except FAILURES as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = next(iter(str(error).splitlines()), "")
        return CheckResult(False, f"{type(error).__name__}: {first}")
