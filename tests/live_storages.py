"""Bytes of the tensor storages that operations create and that still live: what a caching allocator must provide."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class LiveStorages(TorchDispatchMode):
    """A dispatch mode that follows storages by weak references.

    Attributes:
        now: Bytes that live at the last operation.
        peak: The largest value of `now`.
        peak_operation: The operation at which the peak was reached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.peak_operation = ""
        self._sizes: dict[int, int] = {}
        self._references: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ATTENTION:  # a composite: its own operations convert masks and may copy their inputs
            with self:
                return func.decompose(*args, **(kwargs or {}))
        self.sweep()
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                self._add(value.untyped_storage(), str(func))
        return result

    def follow(self, value: torch.Tensor) -> None:
        """Count the storage of a tensor that exists already."""
        self._add(value.untyped_storage(), "before")

    def sweep(self) -> int:
        """Forget the storages that no longer live. Returns `now`."""
        for key, reference in list(self._references.items()):
            if torch.UntypedStorage._expired(reference):
                torch.UntypedStorage._free_weak_ref(reference)
                del self._references[key]
                self.now -= self._sizes.pop(key)
        return self.now

    def _add(self, storage: Any, operation: str) -> None:
        key = storage._cdata
        if key in self._sizes or not storage.nbytes():
            return
        self._sizes[key], self._references[key] = storage.nbytes(), storage._weak_ref()
        self.now += storage.nbytes()
        if self.now > self.peak:
            self.peak, self.peak_operation = self.now, operation
