from decoding.lockstep.budgeted_outputs import read_tokens as read_tokens
from decoding.lockstep.request_metadata import MAX_BRANCHES as MAX_BRANCHES
from decoding.lockstep.request_metadata import BranchMetadata as BranchMetadata
from decoding.lockstep.request_metadata import ThinkingLimits as ThinkingLimits
from decoding.lockstep.request_metadata import parse_branch as parse_branch
from decoding.lockstep.request_metadata import serialize as serialize
from decoding.lockstep.step_records import RECORD_STORE as RECORD_STORE

__all__: list[str] = []
