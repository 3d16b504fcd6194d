"""The engine of a server, as strategies need it: renders prompts, makes branches and runs engine requests."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from threading import Event, Thread
from typing import Any, TypeVar

from decoding.base import Note
from decoding.lockstep.request_metadata import MAX_BRANCHES, BranchMetadata
from decoding.server import HTTPError, StrategyRequest
from icl import DataError, Prompt, Strategy, did_you_mean
from icl.models.hf.model import HF
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, InputBuilder, output_from_vllm, sampling_params


@dataclass(frozen=True)
class Placement:
    """Adapter and engine of one request.

    Attributes:
        adapter: vLLM's LoRA request, None for the base model.
        rank: Index of the engine, None if there is only one.
    """

    adapter: Any = None
    rank: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For `generate` of vLLM's client."""
        return {"lora_request": self.adapter, "data_parallel_rank": self.rank}


class EngineBalancer:
    """Number of branches in each engine of a server. It gives each new request the engine with the fewest.

    With `--data-parallel-size` vLLM's front end distributes single requests over engines, so the branches of a group
    would never meet. A request with a strategy therefore names its engine (vLLM's `data_parallel_rank`). vLLM
    distributes ordinary requests, and its load balancer counts the branches too.
    """

    def __init__(self, engines: int) -> None:
        self.branches = [0] * engines
        self.last_rank = 0

    @property
    def has_several(self) -> bool:
        return len(self.branches) > 1

    @contextmanager
    def place(self, branches: int, adapter: Any = None) -> Iterator[Placement]:
        """A placement for a request, which counts for as long as the block runs. Equal engines take turns."""
        if not self.has_several:
            yield Placement(adapter)
            return
        count = len(self.branches)
        rank = min(range(count), key=lambda r: (self.branches[r], (r - self.last_rank - 1) % count))
        self.branches[rank] += branches
        self.last_rank = rank
        try:
            yield Placement(adapter, rank)
        finally:
            self.branches[rank] -= branches


Value = TypeVar("Value")

MAX_RENDERERS = 16
"""Distinct arguments of the chat template and settings of the image processor whose renderers are kept."""

MAX_PIXELS = 2**28
"""Maximum number of pixels in all images of a request together, which limits the memory of opened images."""


async def _in_own_thread(function: Callable[[], Value]) -> Value:
    """The result of a function that may block for long, run outside of the event loop's thread pool."""
    future: Future[Value] = Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - raised again where the future is awaited
            future.set_exception(error)
        else:
            future.set_result(value)

    Thread(target=work, name="prepare", daemon=True).start()
    return await asyncio.wrap_future(future)


class StrategyServer:
    """The engine client of a server process, with renderer, adapters and the balance over several engines."""

    def __init__(self, state: Any) -> None:
        """state: the state of vLLM's application."""
        self.engine, self.args, self.models = state.engine_client, state.args, state.openai_serving_models
        parallel = state.vllm_config.parallel_config
        self.balancer = EngineBalancer(int(parallel.data_parallel_size))
        # The scheduler cannot read the faults of workers in other processes.
        self.has_worker_processes = parallel.distributed_executor_backend != "uni"
        self.hf = HF(
            self.args.model,
            trust_remote_code=self.args.trust_remote_code,
            revision=self.args.revision,
            template=getattr(self.args, "default_chat_template_kwargs", None) or {},
            image_processor=getattr(self.args, "mm_processor_kwargs", None) or {},
        )
        self.numbers = itertools.count()
        self._inputs_under = lru_cache(MAX_RENDERERS)(self._make_inputs)

    @cached_property
    def inputs(self) -> InputBuilder:
        return InputBuilder(self.hf, self.engine)

    def inputs_for(self, request: StrategyRequest) -> InputBuilder:
        """The builder of a request's inputs, under its arguments of the chat template and settings of the image
        processor, and on its day. Raises ModelError if one is wrong.
        """
        day = request.extended.day if request.extended is not None else None
        other_day = "" if day in (None, date.today()) else str(day)
        settings = request.template, request.image_processor, other_day
        return self._inputs_under(json.dumps(settings, sort_keys=True)) if any(settings) else self.inputs

    def _make_inputs(self, settings: str) -> InputBuilder:
        template, image_processor, day = json.loads(settings)
        hf = replace(
            self.hf,
            template={**self.hf.template, **template},
            image_processor={**self.hf.image_processor, **image_processor},
        )
        if not image_processor:
            vars(hf)["checkpoint"] = self.hf.checkpoint  # its processor is read once
        if day:
            hf.set_day(date.fromisoformat(day))
        _ = hf.prompt_settings  # checked
        return InputBuilder(hf, self.engine, image_processor)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters."""
        return list(self.models.lora_requests)

    @property
    def model_name(self) -> str:
        """The name of the base model."""
        return str(self.models.base_model_paths[0].name)

    def adapter(self, name: str) -> Any:
        """vLLM's LoRA request for the adapter of a name, None for the base model. Raises HTTPError (404)."""
        if name in self.models.lora_requests:
            return self.models.lora_requests[name]
        if name and not self.models.is_base_model(name):
            names = [*(base.name for base in self.models.base_model_paths), *self.adapters]
            raise HTTPError(
                404, f"there is no model '{name}' here.{did_you_mean(name, names)} It serves {', '.join(names)}."
            )
        return None

    async def unsupported_layers_message(self) -> str:
        """Message for an adapter with layers that vLLM would leave out, '' if there is none."""
        for name, adapter in self.models.lora_requests.items():
            layers: list[list[str]] = await self.engine.collective_rpc(
                "lockstep_unsupported_layers", args=(adapter.lora_int_id,)
            )
            if layers[0]:
                return (
                    f"--adapter {name}: vLLM does not support {len(layers[0])} of the layers that {adapter.lora_path} "
                    f"changes, such as {layers[0][0]}, and would ignore them. Use --merge."
                )
        return ""

    async def branches(self, request: StrategyRequest, placement: Placement) -> tuple[Sequence[Prompt], Note]:
        """The strategy's branches, and the note that its scores depend on, if they do.

        A strategy that generates first uses this server's own model.
        """
        await asyncio.to_thread(self._check_images, request.prompt)
        note = await self._prepare(request, placement)
        branches = await asyncio.to_thread(request.arm.strategy.branches, request.prompt, note)
        if len(branches) > MAX_BRANCHES:
            raise HTTPError(
                400, f"{request.arm.label} has {len(branches)} branches, and a group has at most {MAX_BRANCHES}."
            )
        return branches, note if request.arm.strategy.traits.combines_notes else None

    async def _prepare(self, request: StrategyRequest, placement: Placement) -> Note:
        """The note of the strategy's `prepare`, which runs in a thread of its own.

        `prepare` blocks its thread while the model generates. Rendering the prompts of these generations takes threads
        of the event loop's pool. If `prepare` ran in that pool too, a few requests would block it forever.
        """
        strategy = request.arm.strategy
        if type(strategy).prepare is Strategy.prepare:
            return None
        inputs = await asyncio.to_thread(self.inputs_for, request)
        loop, hung_up = asyncio.get_running_loop(), Event()
        generations: list[Future[list[str]]] = []

        def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
            if hung_up.is_set():
                raise CancelledError
            generations.append(
                asyncio.run_coroutine_threadsafe(self._generate(inputs, prompts, max_new_tokens, placement), loop)
            )
            return generations[-1].result()

        try:
            notes = await _in_own_thread(lambda: strategy.prepare([request.prompt], generate))
        finally:
            hung_up.set()
            for future in generations:
                future.cancel()
        return notes[0]

    def _check_images(self, prompt: Prompt) -> None:
        """Raises DataError if the images have too many pixels, before one is decoded."""
        images = [*prompt.images, *(prompt.paired_prompt.images if prompt.paired_prompt is not None else ())]
        pixels = sum(width * height for width, height in (image.size for image in images))
        if pixels > MAX_PIXELS:
            raise DataError(
                f"the images of the request have {pixels:,} pixels together, and a server opens {MAX_PIXELS:,} at "
                "most. Send smaller ones."
            )

    async def _generate(
        self, inputs: InputBuilder, prompts: Sequence[Prompt], length: int, placement: Placement
    ) -> list[str]:
        async def generate_one(prompt: Prompt) -> str:
            engine_input, name = await inputs.of_async(prompt), f"icl-first-{next(self.numbers)}"
            tokens: list[int] = []
            async for output in self._outputs(engine_input, self._parameters(length, (), None), name, placement):
                tokens = list(output.outputs[0].token_ids)
            return self.hf.text(tokens)

        return list(await asyncio.gather(*map(generate_one, prompts)))

    async def _outputs(self, engine_input: Any, parameters: Any, name: str, placement: Placement) -> AsyncIterator[Any]:
        """The outputs of an engine request as they come. Raises HTTPError."""
        from vllm.exceptions import VLLMError, VLLMServerError

        try:
            async for output in self.engine.generate(engine_input, parameters, name, **placement.arguments()):
                yield output
        except VLLMServerError as error:
            raise HTTPError(503, f"the engine has failed: {error}") from error
        except (VLLMError, ValueError) as error:
            raise HTTPError(400, f"vLLM does not accept this prompt: {error}") from error

    @property
    def max_model_len(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return int(self.engine.model_config.max_model_len)

    async def run_request(
        self, engine_input: Any, request: EngineRequest, name: str, placement: Placement
    ) -> EngineOutput:
        """Runs an engine request to its end. Raises HTTPError if the engine refuses it."""
        parameters, last = sampling_params(request, self.hf.stop_tokens), None
        async for output in self._outputs(engine_input, parameters, name, placement):
            last = output
        return EngineOutput(reason="it ended without an answer") if last is None else output_from_vllm(last)

    async def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Removes the records of these groups from the workers of all engines, and returns them by group."""
        call = self.engine.engine_core.call_utility_all_async
        try:
            by_engine: list[list[dict[str, Any]]] = await call(
                "collective_rpc", "lockstep_take_records", None, (list(groups),), {}
            )
        except Exception as error:  # vLLM has no exception of its own for an engine that is stopping
            raise HTTPError(503, f"the engine does not return its records: {error}.") from error
        return {name: record for engine in by_engine for name, record in engine[0].items()}

    async def fault(self, group: str) -> str:
        """The fault of a group that its scheduler cannot see, '' if there is none."""
        if not self.has_worker_processes:
            return ""
        return str((await self.take_records([group])).get(group, {}).get("fault", ""))

    async def run_branch(
        self,
        engine_input: Any,
        request: StrategyRequest,
        branch: BranchMetadata,
        outputs: "asyncio.Queue[Any]",
        placement: Placement,
    ) -> None:
        """Runs one branch to its end, and puts the outputs of branch 0 into `outputs`. Raises HTTPError."""
        room = self.max_model_len - len(engine_input["prompt_token_ids"])
        limit = min(request.max_output_tokens or room, room)
        stop = request.stop if branch.index == 0 else ()
        name = f"icl-{next(self.numbers)}-{branch.index}"
        async for output in self._outputs(engine_input, self._parameters(limit, stop, branch), name, placement):
            if branch.index == 0:
                outputs.put_nowait(output)

    def _parameters(self, limit: int, stop: tuple[str, ...], branch: BranchMetadata | None) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0,
            max_tokens=max(limit, 1),
            stop=list(stop),
            stop_token_ids=sorted(self.hf.stop_tokens),
            ignore_eos=True,
            extra_args=branch.extra_args() if branch else None,
        )
