"""Extension of vLLM's worker class through which an engine's front end reads the records of the workers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from decoding.lockstep.step_records import RECORD_STORE


class LockstepWorkerExtension:
    """Mixin of vLLM's worker (`worker_extension_cls`). Its methods are called with `collective_rpc`."""

    model_runner: Any

    def lockstep_unsupported_layers(self, number: int) -> list[str]:
        """Layers that an adapter changes and for which vLLM has no LoRA module."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(set(manager.get_adapter(number).loras) - set(manager.modules))

    def lockstep_take_records(self, groups: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Removes the records of these groups (None: of all) and returns them as plain values, by group."""
        RECORD_STORE.settle(wait=True)
        records = {}
        for group in list(RECORD_STORE.records) if groups is None else groups:
            record = RECORD_STORE.take(group)
            if record is not None:
                records[group] = {
                    "trace": record.trace,
                    "step_traces": [asdict(trace) for trace in record.step_traces],
                    "first": record.first,
                    "forced": record.forced,
                    "fault": next(iter(record.faults.values()), ""),
                }
        return records
