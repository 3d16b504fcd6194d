from decoding.engine.hypotheses import Hypothesis as Hypothesis
from decoding.engine.hypotheses import append_token as append_token
from decoding.engine.hypotheses import cut_generation as cut_generation
from decoding.engine.hypotheses import option_generation as option_generation
from decoding.engine.hypotheses import text_generation as text_generation
from decoding.engine.reasoned_options import with_reasoned_options as with_reasoned_options
from decoding.engine.result_collector import OnResult as OnResult
from decoding.engine.result_collector import PrepareGenerator as PrepareGenerator
from decoding.engine.result_collector import Result as Result
from decoding.engine.result_collector import ResultCollector as ResultCollector
from decoding.engine.step_batch import LoopStep as LoopStep
from decoding.engine.step_batch import StepBatch as StepBatch
from decoding.engine.thinking_budget import Detokenizer as Detokenizer
from decoding.engine.thinking_budget import Thinking as Thinking
from decoding.engine.trace import TRACE_FIELDS as TRACE_FIELDS
from decoding.engine.trace import StepTrace as StepTrace
from decoding.engine.trace import step_traces as step_traces
from decoding.engine.trace import trace_numbers as trace_numbers
from decoding.engine.trace import trace_tensors as trace_tensors
from decoding.engine.trace_precision import round_nats as round_nats
from decoding.engine.voting import with_voting as with_voting

__all__: list[str] = []
