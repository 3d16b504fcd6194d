"""The metadata of a branch: a JSON text under one key of a vLLM request's `extra_args`.

Group names must be unique. The engine and the server choose them; a client never does.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from decoding.lockstep.serialization import deserialize
from icl.streams import StreamKey

METADATA_KEY = "lockstep"
SECRET_VARIABLE = "ICL_LOCKSTEP_SECRET"
"""Environment variable with the prefix of a server's group names. Only the server's own processes know it."""

GROUP_NAME_REFUSED = "groups are named by the server; ask for a strategy with vllm_xargs: {strategy: ...}"

MAX_BRANCHES = 16
"""Maximum number of branches of a group."""


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
        first: Tokens whose log-probability is recorded at step 0.
        force: Tokens of an option. They are chosen in place of the strategy's tokens, and their log-probabilities are
            recorded.
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
        return {METADATA_KEY: json.dumps(vars(self))}


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
    return BranchMetadata(**values | {key: tuple(values.get(key, ())) for key in ("first", "force")})


def check_group_name(branch: BranchMetadata) -> None:
    """Raises ValueError if a server runs in this process and the group name is not one of its own."""
    if not branch.group.startswith(os.environ.get(SECRET_VARIABLE, "")):
        raise ValueError(GROUP_NAME_REFUSED)


def check_arm(branch: BranchMetadata) -> None:
    """Raises ICLError if this process cannot build the strategy of a branch."""
    deserialize(branch.arm)
