"""Checks of a checkpoint when it is loaded, in place of a list of architectures.

Do prompts with cached image features have the ids and logits of the processor's own inputs? Do prompts on a shared
prefix? If a check fails or raises an exception, the feature is switched off for this model, and the reason becomes a
note of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icl import PIL, ICLError, Image, ModelError, Part, Prompt, Turn, is_out_of_memory
from icl.models.hf import ImageProcessor, Prefiller, PromptRenderer, conventions, quantization
from icl.models.hf.language_model import EncodedPrompt, LanguageModel
from icl.models.hf.prompt_encoding import PromptEncoder, process_prompt
from icl.models.hf.step_graphs import StepGraphs, refused_graph

FAILURES = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError, ICLError)
"""Exceptions of an architecture that does not support a feature."""


@dataclass(frozen=True)
class CheckResult:
    """Result of a check. holds: whether the feature may be used. reason: why not."""

    holds: bool
    reason: str = ""


def check_image_cache(cached: PromptEncoder, plain: PromptEncoder, runner: LanguageModel) -> CheckResult:
    """Compare ids and logits of prompts with images of several sizes, with and without the image cache."""

    def ask() -> CheckResult:
        # The image encoder batches the images of all prompts, so it sees other batches than `plain`.
        prompts = _supported(_prompts(), plain)
        for want, got in zip(plain.read(prompts), cached.read(prompts), strict=True):
            if want.ids.tolist() != got.ids.tolist():
                return CheckResult(False, "the token ids differ from the processor's own")
            gap = _gap(runner.prefill([want]).logits, runner.prefill([got]).logits)
            if not gap <= _tolerance(runner):
                return CheckResult(False, f"the logits differ by {gap:.1e} of their spread")
        return CheckResult(True)

    return _without_exceptions(ask)


def check_shared_prefix(reader: PromptEncoder, runner: LanguageModel) -> CheckResult:
    """Compare logits of two prompts with a common prefix, prefilled in three ways: whole, on the shared prefix, and on
    the row of the first prompt if it can be a prefix source.
    """

    def ask() -> CheckResult:
        first = _prompts()[0]
        query = _ask("what color is it?", _image(64, 128, seed=1))  # as wide as the first, so that both run together
        prompts = [first, Prompt((*first.turns[:-1], query)), *_single_turns()]
        if reader.renderer.text_only:
            prompts = [_without_images(prompt) for prompt in prompts]
        reads: list[EncodedPrompt] = reader.read(_supported(prompts, reader)[:2])
        want = Prefiller(runner, 10**9, sharing=False).open(reads).logits
        before = runner.counters.prefill_tokens
        prefiller = Prefiller(runner, 10**9, least=1)
        rows = prefiller.open(reads)
        if runner.counters.prefill_tokens - before >= sum(map(len, reads)):
            return CheckResult(False, "two prompts that should have a common prefix have none")
        reused = prefiller.open(reads, prefix_source=Prefiller(runner, 10**9, sharing=False).open(reads[:1]))
        gap = max(_gap(want, rows.logits), _gap(want, reused.logits))
        return CheckResult(gap <= _tolerance(runner), f"the logits differ by {gap:.1e} of their spread")

    return _without_exceptions(ask)


def check_plain_reading(plain: PromptEncoder, runner: LanguageModel, path: str) -> None:
    """Prefill one prompt with images by the processor alone.

    Raises:
        ModelError: The model cannot read it, or the processor accepts none of several prompts.
    """
    refused: ICLError | None = None
    for prompt in _supported(_prompts(), plain):
        try:
            runner.prefill(plain.read([prompt]))
        except ICLError as error:
            refused = error
        except FAILURES as error:
            if is_out_of_memory(error):
                return
            raise conventions.mismatch(error, runner.model, path) from error
        else:
            return
    if refused is not None:
        raise ModelError(f"model.path: {path} cannot read an image: {refused}") from refused


def check_step_graphs(reader: PromptEncoder, runner: LanguageModel) -> StepGraphs:
    """Graphs of the model, after their logits were compared with those of plain steps: of rows with padding, when a
    graph is captured and when it is launched again, and after rows have changed.

    Raises:
        ModelError: A step cannot be a graph, or has other logits.
    """
    graphs, prompts = StepGraphs(runner), _prompts()
    if reader.renderer.text_only:
        prompts = [_without_images(prompt) for prompt in prompts]
    reads = reader.read(_supported(prompts, reader)[:2])

    def logits(used: StepGraphs | None) -> list[Tensor]:
        rows, made = Prefiller(runner, 10**9, sharing=False).open(reads), []
        for step in range(4):
            if step == 2:
                rows.retain(torch.tensor([0, *range(len(rows))]))
            runner.graphs = used
            rows.advance(torch.arange(len(rows), device=runner.device) + step)
            made.append(rows.logits)
        return made

    gap = max(_gap(want, got) for want, got in zip(logits(None), logits(graphs), strict=True))
    if not gap <= _tolerance(runner):
        raise refused_graph(runner, f"its logits differ by {gap:.1e} of their spread")
    graphs.clear()
    return graphs


def reads_by_parts(renderer: PromptRenderer, pixels: ImageProcessor) -> bool:
    """Whether prompts have the token ids of their text with separately processed images. Some processors number images.

    Without weights, so that a plan and the model `vllm` know the ids too.
    """

    def ask() -> CheckResult:
        several, one, _ = _prompts()
        for prompt in (several, one) if renderer.facts.accepts_turns else (one,):
            texts = [pixels.text(image, len(prompt.images)) for image in prompt.images]
            ids = renderer.ids(renderer.expanded(renderer.text(prompt), texts))
            if list(ids) != process_prompt(renderer, prompt)["input_ids"][0].tolist():
                return CheckResult(False)
        return CheckResult(True)

    return _without_exceptions(ask).holds


def _prompts() -> list[Prompt]:
    """A demonstration with a query, a query alone, and two images in one turn. Images have several sizes."""
    demo = (_ask("what is it?", _image(96, 64)), Turn("assistant", (Part("a cat"),)))
    return [
        Prompt((*demo, _ask("what is it?", _image(64, 128)))),
        Prompt((_ask("what color is it?", _image(120, 88)),)),
        _single_turns()[0],
    ]


def _single_turns() -> list[Prompt]:
    """Two prompts that begin with the same two images."""
    images = (_image(96, 64), _image(64, 128))
    return [Prompt((_ask(question, *images),)) for question in ("which is larger?", "are they the same thing?")]


def _without_images(prompt: Prompt) -> Prompt:
    return prompt.map(lambda part: Part("a picture: ") if part.image else part)


def _image(width: int, height: int, seed: int | None = None) -> Part:
    noise = torch.Generator().manual_seed(width if seed is None else seed)
    pixels = torch.randint(0, 256, (height // 8, width // 8, 3), generator=noise, dtype=torch.uint8).numpy()
    return Part(Image.from_pil(PIL.Image.fromarray(pixels).resize((width, height)), "self-check"))


def _ask(question: str, *images: Part) -> Turn:
    return Turn("user", (*images, Part(question)))


def _supported(prompts: list[Prompt], reader: PromptEncoder) -> list[Prompt]:
    """The prompts that the chat template takes. Raises its ModelError if it takes none."""
    supported: list[Prompt] = []
    refused: ModelError | None = None
    for prompt in prompts:
        try:
            reader.renderer.text(prompt)
            supported.append(prompt)
        except ModelError as error:
            refused = error
    if refused is not None and not supported:
        raise refused
    return supported


def _gap(want: Tensor, got: Tensor) -> float:
    return float((want - got).abs().max() / want.std().clamp(min=1e-6))


def _tolerance(runner: LanguageModel) -> float:
    return 1e-3 if quantization.is_exact(runner.model) else 0.25


def _without_exceptions(ask: Callable[[], CheckResult]) -> CheckResult:
    try:
        return ask()
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "")
        return CheckResult(False, f"{type(error).__name__}: {first}")
