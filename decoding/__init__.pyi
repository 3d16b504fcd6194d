from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.arms.arm import ControlTarget as ControlTarget
from decoding.arms.arm import LogitsProcessorConfig as LogitsProcessorConfig
from decoding.arms.arm import Normalize as Normalize
from decoding.arms.arm import build_arm as build_arm
from decoding.arms.fitting import FitsOnPrompts as FitsOnPrompts
from decoding.arms.fitting import Fittable as Fittable
from decoding.arms.fitting import write_parameter_file as write_parameter_file
from decoding.arms.greedy import GreedyDecoding as GreedyDecoding
from decoding.arms.inspection import branch_count as branch_count
from decoding.arms.inspection import constant_strength as constant_strength
from decoding.arms.inspection import constant_weights as constant_weights
from decoding.arms.inspection import edits_query_image as edits_query_image
from decoding.arms.inspection import has_negative_weight as has_negative_weight
from decoding.arms.inspection import has_reference_scores as has_reference_scores
from decoding.arms.inspection import logits_count as logits_count
from decoding.arms.inspection import min_strength as min_strength
from decoding.arms.inspection import probe_branches as probe_branches
from decoding.arms.inspection import probe_prompt as probe_prompt
from decoding.arms.requirements import degenerate_contrast as degenerate_contrast
from decoding.arms.requirements import unsupported_reason as unsupported_reason
from decoding.arms.wrapper import AblationContrast as AblationContrast
from decoding.arms.wrapper import AdaptiveAblationContrast as AdaptiveAblationContrast
from decoding.arms.wrapper import GatedStrategy as GatedStrategy
from decoding.arms.wrapper import MaskingWrapper as MaskingWrapper
from decoding.arms.wrapper import StrategyWrapper
from decoding.base import Beams as Beams
from decoding.base import ContrastStrategy as ContrastStrategy
from decoding.base import DefaultNote as DefaultNote
from decoding.base import Generate, StatefulStrategy, SteeringMethod, StepState, Strategy, Traits
from decoding.base import InitialStepState as InitialStepState
from decoding.base import Note as Note
from decoding.base import ObservingGenerate as ObservingGenerate
from decoding.base import PlausibleStrategy as PlausibleStrategy
from decoding.base import UnitSumStrategy as UnitSumStrategy
from decoding.base import unit_strength as unit_strength
from decoding.base import zero_strength as zero_strength
from decoding.conformance import StrategyFacts, check_strategy
from decoding.controls.base import AllBranchesControl as AllBranchesControl
from decoding.controls.base import NegativeReplacement as NegativeReplacement
from decoding.controls.base import WrappingControl as WrappingControl
from decoding.engine.engine import run_requests
from decoding.engine.requests import AnswerMode as AnswerMode
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.requests import LazyBranches as LazyBranches
from decoding.engine.requests import PreparedRequest as PreparedRequest
from decoding.engine.requests import distinct_prompts as distinct_prompts
from decoding.export.custom_generate import custom_generate_files as custom_generate_files
from decoding.formulas.distributions import RowSteps as RowSteps
from decoding.formulas.distributions import (
    bounded_divergence,
    entropy,
    jensen_shannon,
    kl_divergence,
    kth_plausibility_mask,
    plausibility_mask,
    typical_mask,
)
from decoding.formulas.distributions import constants_like as constants_like
from decoding.formulas.distributions import mean_logprobs as mean_logprobs
from decoding.formulas.distributions import steps_per_row as steps_per_row
from decoding.formulas.distributions import weight_per_row as weight_per_row
from decoding.formulas.sampling import Beam, Greedy, Sampler, Sampling
from decoding.group_mixture import GroupMixture as GroupMixture
from decoding.group_mixture import GroupWeights as GroupWeights
from decoding.interventions.attention_edits import RaisedScores as RaisedScores
from decoding.interventions.attention_edits import RandomTokens as RandomTokens
from decoding.interventions.attention_edits import ScoreMethod as ScoreMethod
from decoding.interventions.attention_edits import attention_problem as attention_problem
from decoding.interventions.attention_edits import check_span_names as check_span_names
from decoding.interventions.attention_edits import names_images as names_images
from decoding.interventions.attention_edits import score_sites as score_sites
from decoding.interventions.base import Control as Control
from decoding.interventions.base import FittedMethod
from decoding.interventions.control_vector import vector_files as vector_files
from decoding.interventions.edits import Copies as Copies
from decoding.interventions.edits import DirectionEdit as DirectionEdit
from decoding.interventions.edits import HeadEdit as HeadEdit
from decoding.interventions.edits import How as How
from decoding.interventions.edits import VectorEdit as VectorEdit
from decoding.interventions.edits import tensor_digest as tensor_digest
from decoding.interventions.fit_data import DevPrompt as DevPrompt
from decoding.interventions.fit_data import FitData as FitData
from decoding.interventions.vector_file import FittedTensors as FittedTensors
from decoding.interventions.vector_file import VectorFile as VectorFile
from decoding.interventions.vector_file import find_vector_file as find_vector_file
from decoding.interventions.vector_file import random_of_equal_norm as random_of_equal_norm
from decoding.interventions.vector_file import read_vector_file as read_vector_file
from decoding.prompt_edits import AblatedPart as AblatedPart
from decoding.prompt_edits import consecutive_groups as consecutive_groups
from decoding.prompt_edits import demonstration_windows as demonstration_windows
from decoding.prompt_edits import demonstrations as demonstrations
from decoding.prompt_edits import judge_prompts as judge_prompts
from decoding.prompt_edits import keep_demonstrations as keep_demonstrations
from decoding.prompt_edits import question_text as question_text
from decoding.prompt_edits import remove_demonstrations as remove_demonstrations
from decoding.prompt_edits import remove_part as remove_part
from decoding.prompt_edits import remove_query_image as remove_query_image
from decoding.prompt_edits import replace_answers as replace_answers
from decoding.prompt_edits import replace_question as replace_question
from decoding.prompt_edits import wrap_question as wrap_question

__all__ = [
    "Arm",
    "Beam",
    "Counters",
    "DecodingRequest",
    "Failure",
    "FittedMethod",
    "Generate",
    "Greedy",
    "Sampler",
    "Sampling",
    "StatefulStrategy",
    "SteeringMethod",
    "StepState",
    "Strategy",
    "StrategyFacts",
    "StrategyWrapper",
    "Traits",
    "bounded_divergence",
    "check_strategy",
    "default_controls",
    "entropy",
    "jensen_shannon",
    "kl_divergence",
    "kth_plausibility_mask",
    "parse_arm",
    "plausibility_mask",
    "run_requests",
    "typical_mask",
]
