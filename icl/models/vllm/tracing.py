"""Traces of prompts through a vLLM engine of this process."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from icl import Prompt
from icl.models.hf.tracing import CheckpointTracer
from icl.models.tracing import STEPS, TOP, Facts, Stage, Trace, greedy_trace, to_array
from icl.models.vllm.engine_io import EngineOutput, EngineRequest


class VLLMTracer(CheckpointTracer):
    """Shows every stage but image features, which stay in the engine."""

    @property
    def hidden(self) -> Mapping[Stage, str]:
        return {Stage.FEATURES: "not visible in vLLM's engine"}

    @cached_property
    def facts(self) -> Facts:
        return self.facts_with(str(self._engine.llm.model_config.dtype), self.model.quantization)

    @property
    def _engine(self) -> Any:
        """The engine, or the first of several."""
        engine: Any = self.model.engine
        return getattr(engine, "engines", [engine])[0]

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        processed = self._engine.inputs.processed(prompt)
        pixels = [item.get("pixel_values") for item in (processed["mm_kwargs"]["image"] if prompt.images else ())]
        ids, outputs = tuple(processed["prompt_token_ids"]), list[EngineOutput]()
        self.model.run_groups([[EngineRequest(prompt, STEPS, top=TOP)]], lambda _, group: outputs.extend(group))
        return greedy_trace(
            self.model,
            outputs[0].steps,
            text=self.model.render(prompt),
            ids=ids,
            prompt_tokens=len(ids),
            pixels=None if None in pixels else tuple(to_array(one.data) for one in pixels),
            error=outputs[0].reason,
        )
