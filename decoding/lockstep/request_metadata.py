"""The metadata of a branch: a JSON text under one key of a vLLM request's `extra_args`.

Group names must be unique. The engine and the server choose them; a client never does.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from decoding import Greedy, Note, Sampler, Sampling
from icl import PlanError, ReasoningMarkers, Strategy, StreamKey
from icl.registry import build, to_config

METADATA_KEY = "lockstep"
SECRET_VARIABLE = "ICL_LOCKSTEP_SECRET"
"""Environment variable with the prefix of a server's group names. Only the server's own processes know it."""

GROUP_NAME_REFUSED = "groups are named by the server; ask for a strategy with vllm_xargs: {strategy: ...}"

MAX_BRANCHES = 16
"""Maximum number of branches of a group."""


@dataclass(frozen=True)
class ThinkingLimits:
    """The thinking budget of a group (`decoding.lockstep.step_records`).

    Attributes:
        max_thinking_tokens: Length limit of the reasoning.
        max_new_tokens: Length limit of the answer.
        stop_tokens: Tokens that end an answer.
        opening: The opening marker at the end of the prompt of branch 0, '' if there is none.
        own: The fields of `ReasoningMarkers` of the model's chat template, if it has a block.
    """

    max_thinking_tokens: int
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    opening: str = ""
    own: tuple[str, ...] = ()

    @property
    def own_markers(self) -> ReasoningMarkers | None:
        """The markers of the model's chat template, or None."""
        return ReasoningMarkers(*self.own) if self.own else None


@dataclass(frozen=True)
class BranchMetadata:
    """The place of one prompt in a group, and how the group decodes.

    Attributes:
        group: Name of the group.
        index: Index of the branch. Branch 0 is the reference; its output is the answer.
        count: Number of branches.
        arm: Strategy and sampler as `serialize` writes them.
        seed: Seed of the random stream of the sampler.
        query: Query id of the random stream of the sampler.
        trace: Whether to record the numbers of each step.
        top: Number of tokens to record of each branch in each step (`decoding.engine.trace`).
        first: Record the log-probabilities of these tokens at step 0.
        force: Tokens of an option. They are chosen in place of the strategy's tokens, and their log-probabilities are
            recorded.
        thinking: The thinking budget, or None.
        note: What the strategy prepared for the prompt, if its scores depend on it.
    """

    group: str
    index: int
    count: int
    arm: str
    seed: int = 0
    query: str = ""
    trace: bool = False
    top: int = 0
    first: tuple[int, ...] = ()
    force: tuple[int, ...] = ()
    thinking: ThinkingLimits | None = None
    note: Note = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_BRANCHES:
            raise ValueError(f"a group of {self.count} branches: the number must be 1 to {MAX_BRANCHES}")
        if not 0 <= self.index < self.count:
            raise ValueError(f"branch {self.index} of {self.count}: 0 <= index < count is required")

    @property
    def key(self) -> StreamKey:
        return StreamKey(self.seed, self.query)

    @property
    def scores_options(self) -> bool:
        return bool(self.first or self.force)

    def extra_args(self) -> dict[str, str]:
        """For `SamplingParams(extra_args=...)`."""
        return {METADATA_KEY: json.dumps(asdict(self))}


def parse_branch(extra_args: Mapping[str, Any] | None) -> BranchMetadata | None:
    """The branch that a request is, None for an ordinary request. Raises ValueError if the metadata is malformed."""
    text = (extra_args or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{METADATA_KEY}' is not the JSON that an engine writes: {error}") from error
    allowed = {f.name for f in fields(BranchMetadata)}
    if not isinstance(values, dict) or values.keys() - allowed or {"group", "index", "count", "arm"} - values.keys():
        raise ValueError(f"'{METADATA_KEY}' is a mapping of {', '.join(sorted(allowed))}, not {text[:200]}")
    values |= {key: tuple(values.get(key, ())) for key in ("first", "force")}
    if (limits := values.get("thinking")) is not None:
        tuples = {key: tuple(limits.get(key, ())) for key in ("stop_tokens", "own")}
        values["thinking"] = ThinkingLimits(**limits | tuples)
    return BranchMetadata(**values)


def check_group_name(branch: BranchMetadata) -> None:
    """Raises ValueError if a server runs in this process and the group name is not one of its own."""
    if not branch.group.startswith(os.environ.get(SECRET_VARIABLE, "")):
        raise ValueError(GROUP_NAME_REFUSED)


def check_arm(branch: BranchMetadata) -> None:
    """Raises ICLError if this process cannot build the strategy of a branch."""
    deserialize(branch.arm)


SAMPLERS: dict[str, type[Greedy | Sampling]] = {"greedy": Greedy, "sampling": Sampling}


def serialize(strategy: Strategy, sampler: Sampler) -> str:
    """The text of a strategy and a sampler.

    Raises:
        PlanError: A component has no name, or is not equal to the one built from the text.
    """
    return _serialized((strategy, sampler))


@lru_cache(1024)
def _serialized(arm: tuple[Strategy, Any]) -> str:
    strategy, sampler = arm
    if type(sampler) not in SAMPLERS.values():
        raise PlanError(f"the sampler {type(sampler).__name__} cannot be sent to the engine's process. Use Sampling.")
    text = json.dumps([to_config(strategy), to_config(sampler)], sort_keys=True)
    if deserialize(text) != (strategy, sampler):
        raise PlanError(
            f"{type(strategy).__name__} is not equal to the strategy that its parameters build, so it cannot be "
            "sent to the engine's process. A strategy is a frozen dataclass whose fields are all its parameters."
        )
    return text


@lru_cache(1024)
def deserialize(text: str) -> tuple[Strategy, Sampler]:
    """Strategy and sampler of a text. Raises ConfigError if this process does not know the strategy."""
    strategy, sampler = json.loads(text)
    return build("strategy", strategy), SAMPLERS[sampler.pop("name")](**sampler)
