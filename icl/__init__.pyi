from decoding.base import Strategy
from experiments.api import answer, compose, load_model, load_run, load_task, retrieve, run
from experiments.launch.base import Launcher
from experiments.observers.base import Observer
from icl import edits, testing
from icl.annotations import DataFrame as DataFrame
from icl.annotations import Series as Series
from icl.annotations import Tensor as Tensor
from icl.edits.base import Edit
from icl.errors import ConfigError as ConfigError
from icl.errors import DataError as DataError
from icl.errors import ICLError as ICLError
from icl.errors import ICLWarning as ICLWarning
from icl.errors import ModelError as ModelError
from icl.errors import PlanError as PlanError
from icl.errors import StoreError as StoreError
from icl.errors import did_you_mean as did_you_mean
from icl.errors import strip_control_characters as strip_control_characters
from icl.images import Image
from icl.memory import copied_to_device as copied_to_device
from icl.metrics.base import Better as Better
from icl.metrics.base import Metric
from icl.metrics.base import ScoredSample as ScoredSample
from icl.metrics.normalize import normalize_text
from icl.metrics.run_level import RunStatistic as RunStatistic
from icl.metrics.run_level import mean as mean
from icl.metrics.run_level import mean_over_groups as mean_over_groups
from icl.metrics.run_level import on_scored_samples as on_scored_samples
from icl.models.base import LogitModel, Model
from icl.models.base import Request as Request
from icl.models.base import Session as Session
from icl.models.interventions import END as END
from icl.models.interventions import Intervention, Site, StateObserver, Where, steer
from icl.models.interventions import Keys as Keys
from icl.models.interventions import TokenPart as TokenPart
from icl.parameter_files import cache_folder as cache_folder
from icl.parameter_files import expand_user as expand_user
from icl.registry import Count as Count
from icl.registry import Fraction as Fraction
from icl.registry import GeneratedCount as GeneratedCount
from icl.registry import NestedComponent as NestedComponent
from icl.registry import NonNegative as NonNegative
from icl.registry import Positive as Positive
from icl.registry import PositiveInt as PositiveInt
from icl.registry import build as build
from icl.registry import component, parameter
from icl.registry import describe as describe
from icl.registry import entries as entries
from icl.registry import later_parameter as later_parameter
from icl.registry import resolve as resolve
from icl.registry import with_article as with_article
from icl.streams import StreamKey, stream
from icl.tasks.base import Pool, Task
from icl.tasks.base import SeveralPoolsTask as SeveralPoolsTask
from icl.tasks.base import SharedPoolTask as SharedPoolTask
from icl.tasks.base import limited_choice as limited_choice
from icl.tasks.base import nested_choice as nested_choice
from icl.text.json_text import canonical_digest as canonical_digest
from icl.text.json_text import parse_json_object as parse_json_object
from icl.types import Context, Demo, Example, Generation, Part, Prompt, Query, RetrievedExample, Sample, Turn, Usage
from icl.types import OptionListing as OptionListing
from icl.user_errors import convert_user_errors as convert_user_errors
from icl.version import __version__ as __version__
from prompts.base import Composer, Orderer, Transform
from retrievers.base import Embedder, Reranker, Retriever

__all__ = [
    "Composer",
    "Context",
    "Demo",
    "Edit",
    "Embedder",
    "Example",
    "Generation",
    "Image",
    "Intervention",
    "Launcher",
    "LogitModel",
    "Metric",
    "Model",
    "Observer",
    "Orderer",
    "Part",
    "Pool",
    "Prompt",
    "Query",
    "Reranker",
    "RetrievedExample",
    "Retriever",
    "Sample",
    "Site",
    "StateObserver",
    "Strategy",
    "StreamKey",
    "Task",
    "Transform",
    "Turn",
    "Usage",
    "Where",
    "answer",
    "component",
    "compose",
    "edits",
    "load_model",
    "load_run",
    "load_task",
    "normalize_text",
    "parameter",
    "retrieve",
    "run",
    "steer",
    "stream",
    "testing",
]
