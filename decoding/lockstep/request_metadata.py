"""What a request says about its group: a line of JSON under one key of its `extra_args`.

Whoever names groups vouches that a name is used once; an engine and a server do, a client never does.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from decoding.lockstep.serialization import deserialize
from icl.streams import StreamKey

KEY = "lockstep"
SECRET = "ICL_LOCKSTEP_SECRET"
"""The variable by which a server tells its own processes how the names of its groups begin."""

NAMED = "groups are named by the server; ask for a strategy with vllm_xargs: {strategy: ...}"

MAX_BRANCHES = 16
"""Branches that a group may have."""


@dataclass(frozen=True)
class BranchMetadata:
    """One prompt of a group.

    group: its name. index: which branch this is; 0 is the reference, whose output is the answer. count: of branches.
    arm: strategy and sampler as `serialize` writes them. seed, query: whose random stream a draw reads. trace: keep
    per-step numbers. top: keep so many tokens of each branch of every step (`decoding.engine.trace`). first: tokens
    whose log-probability the first step keeps. force: the tokens of an option, chosen one after the other instead of
    what the strategy would choose, each with its log-probability kept.
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
            raise ValueError(f"a group of {self.count} branches: it may have 1 to {MAX_BRANCHES}")
        if not 0 <= self.index < self.count:
            raise ValueError(f"branch {self.index} of {self.count}: need 0 <= index < count")

    @property
    def key(self) -> StreamKey:
        return StreamKey(self.seed, self.query)

    @property
    def scores_options(self) -> bool:
        return bool(self.first or self.force)

    def extra_args(self) -> dict[str, str]:
        """For `SamplingParams(extra_args=...)`."""
        return {KEY: json.dumps(vars(self))}


def parse_branch(extra_args: Mapping[str, Any] | None) -> BranchMetadata | None:
    """The branch that a request is, or None for an ordinary one. Raises ValueError where it is malformed."""
    told = (extra_args or {}).get(KEY)
    if told is None:
        return None
    try:
        given = json.loads(told)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{KEY}' is not the JSON that an engine writes: {error}") from error
    known = {f.name for f in fields(BranchMetadata)}
    if not isinstance(given, dict) or given.keys() - known or {"group", "index", "count", "arm"} - given.keys():
        raise ValueError(f"'{KEY}' is a mapping of {', '.join(sorted(known))}, not {told[:200]}")
    return BranchMetadata(**given | {key: tuple(given.get(key, ())) for key in ("first", "force")})


def check_name(branch: BranchMetadata) -> None:
    """Raises ValueError where a server runs here and the group was named by somebody else."""
    if not branch.group.startswith(os.environ.get(SECRET, "")):
        raise ValueError(NAMED)


def check_arm(branch: BranchMetadata) -> None:
    """Raises ICLError where the strategy of a branch cannot be built in this process."""
    deserialize(branch.arm)
