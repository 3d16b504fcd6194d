"""How an engine's front end fetches what the workers kept: an extension of vLLM's worker class, given by its name."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from decoding.lockstep.step_records import RECORD_STORE


class LockstepWorkerExtension:
    """Mixed into the worker (`worker_extension_cls`), called by `collective_rpc`."""

    model_runner: Any

    def lockstep_unsupported_layers(self, number: int) -> list[str]:
        """Layers that an adapter changes and this worker does not."""
        manager = self.model_runner.lora_manager._adapter_manager
        return sorted(set(manager.get_adapter(number).loras) - set(manager.modules))

    def lockstep_take_records(self, groups: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Records of groups that have any, or of all, as plain values; they are forgotten here."""
        found = {}
        for group in list(RECORD_STORE.records) if groups is None else groups:
            record = RECORD_STORE.take(group)
            if record is not None:
                found[group] = {
                    "trace": record.trace,
                    "looks": [asdict(look) for look in record.step_traces],
                    "first": record.first,
                    "forced": record.forced,
                    "fault": next(iter(record.faults.values()), ""),
                }
        return found
