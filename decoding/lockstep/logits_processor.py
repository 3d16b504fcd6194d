"""The logits processor: finds the rows of each group in a batch, and makes all of them sample one token.

vLLM has two model runners, each with an interface of its own. An engine loads the same class for both, so this class
implements both. It never waits: the scheduler brings the rows of a group into one batch, and checks the tokens.
"""

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunner
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondRunner

from decoding.lockstep import BatchRow, check_engine, complete_groups, select_tokens
from decoding.lockstep.request_metadata import BranchMetadata, check_arm, check_group_name, parse_branch
from icl.errors import ICLError

NEUTRAL_VALUES = {
    "n": 1,
    "temperature": 0.0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "thinking_token_budget": None,
    "structured_outputs": None,
    "prompt_logprobs": None,
}
"""Sampling parameters that would change single branches after the strategy, with the value that has no effect."""


class LockstepLogitsProcessor(FirstRunner, SecondRunner):  # type: ignore[misc]
    """Logits processor that applies strategies. Each worker has one. It leaves ordinary requests unchanged."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Checks a request at arrival. Raises ValueError, which a server answers with status 400."""
        branch = parse_branch(sampling_params.extra_args)
        if branch is None:
            return
        check_group_name(branch)
        for name, neutral in NEUTRAL_VALUES.items():
            value = getattr(sampling_params, name, neutral)
            if value != neutral and value:
                raise ValueError(f"{name}={value} cannot be set for a branch: its strategy defines sampling and masks")
        try:
            check_arm(branch)
        except ICLError as error:
            raise ValueError(str(error)) from error

    def __init__(self, vllm_config: Any, *runner: Any) -> None:
        check_engine(vllm_config)
        self.model_config = vllm_config.model_config
        # The first runner passes (device, pinned), the second (request states,).
        self.states = runner[0] if len(runner) == 1 else None
        # First runner: batch index -> branch and its output tokens, a list that vLLM extends.
        self.entries: dict[int, tuple[BranchMetadata, list[int]]] = {}
        # Second runner: request slot -> branch.
        self.slots: dict[int, BranchMetadata] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """First runner: the batch index of each request changes, in vLLM's order: removed, added, moved."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.entries.pop(index, None)
        for index, params, _prompt, output in batch_update.added:
            branch = parse_branch(params.extra_args)
            if branch is None:
                self.entries.pop(index, None)
            else:
                self.entries[index] = branch, output
        for source, target, direction in batch_update.moved:
            moved, displaced = self.entries.pop(source, None), self.entries.pop(target, None)
            if moved is not None:
                self.entries[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self.entries[source] = displaced

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Second runner: a request enters a slot."""
        self.slots.pop(req_idx, None)
        branch = parse_branch(sampling_params.extra_args)
        if branch is not None:
            self.slots[req_idx] = branch
        return branch is not None

    def load_tokenizer(self) -> Any:
        """The tokenizer of the engine, loaded once for each process. Thinking budgets read it."""
        from vllm.tokenizers import cached_tokenizer_from_config

        return cached_tokenizer_from_config(self.model_config)

    def apply(self, logits: "Tensor", ctx: Any = None) -> "Tensor":
        """Writes the selected tokens into logits [rows, V] float32, in place."""
        rows = self._first_rows() if ctx is None else self._second_rows(ctx)
        if rows:
            select_tokens(logits, complete_groups(rows), self.load_tokenizer)
        return logits

    def _first_rows(self) -> list[BatchRow]:
        # A row in the middle of its prompt has a step too; the runner drops what it samples.
        return [BatchRow(index, branch, len(output)) for index, (branch, output) in self.entries.items()]

    def _second_rows(self, ctx: Any) -> list[BatchRow]:
        assert self.states is not None
        rows = []
        for index, slot in enumerate(ctx.idx_mapping_np.tolist()):
            branch = self.slots.get(slot)
            if branch is not None:
                length = int(ctx.seq_lens_upper_bound_np[index])
                # Below `prefill_len` the row still computes its prompt, or the answer of a preempted request again.
                if length >= int(self.states.prefill_len.np[slot]):
                    rows.append(BatchRow(index, branch, length - int(self.states.prompt_len.np[slot])))
        return rows
