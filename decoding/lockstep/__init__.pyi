from decoding.lockstep.engine import MISSING_BRANCH_TIMEOUT_S as MISSING_BRANCH_TIMEOUT_S
from decoding.lockstep.engine import additional_config as additional_config
from decoding.lockstep.engine import check_engine as check_engine
from decoding.lockstep.grouping import build_answer as build_answer
from decoding.lockstep.grouping import build_groups as build_groups
from decoding.lockstep.grouping import thinking_limits as thinking_limits
from decoding.lockstep.request_metadata import MAX_BRANCHES as MAX_BRANCHES
from decoding.lockstep.request_metadata import BranchMetadata as BranchMetadata
from decoding.lockstep.request_metadata import ThinkingLimits as ThinkingLimits
from decoding.lockstep.request_metadata import deserialize as deserialize
from decoding.lockstep.request_metadata import parse_branch as parse_branch
from decoding.lockstep.request_metadata import serialize as serialize
from decoding.lockstep.step_records import RECORD_STORE as RECORD_STORE
from decoding.lockstep.step_records import TokenizerLoader as TokenizerLoader
from decoding.lockstep.step_records import empty_output as empty_output
from decoding.lockstep.step_records import read_tokens as read_tokens
from decoding.lockstep.step_records import set_step as set_step
from decoding.lockstep.token_selection import BatchRow as BatchRow
from decoding.lockstep.token_selection import complete_groups as complete_groups
from decoding.lockstep.token_selection import select_tokens as select_tokens

__all__: list[str] = []
