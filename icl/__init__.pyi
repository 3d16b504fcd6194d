from decoding.base import Strategy
from experiments.api import answer, compose, load_model, load_run, load_task, retrieve, run
from experiments.launch.base import Launcher
from experiments.observers.base import Observer
from icl import edits, testing
from icl.annotations import DataFrame as DataFrame
from icl.annotations import Series as Series
from icl.annotations import Tensor as Tensor
from icl.code_files import names_of_files as names_of_files
from icl.component_json import config_key as config_key
from icl.component_json import config_nodes as config_nodes
from icl.component_node import FLOAT32_MAX as FLOAT32_MAX
from icl.component_node import Component as Component
from icl.component_node import suggest as suggest
from icl.edits.base import Edit
from icl.errors import ComponentError as ComponentError
from icl.errors import ConfigError as ConfigError
from icl.errors import DamagedFileError as DamagedFileError
from icl.errors import DataError as DataError
from icl.errors import ICLError as ICLError
from icl.errors import ICLWarning as ICLWarning
from icl.errors import ImageError as ImageError
from icl.errors import ModelError as ModelError
from icl.errors import PlanError as PlanError
from icl.errors import StoreError as StoreError
from icl.errors import did_you_mean as did_you_mean
from icl.errors import strip_control_characters as strip_control_characters
from icl.errors import truncate as truncate
from icl.hub import SMALL_SOURCE_BYTES as SMALL_SOURCE_BYTES
from icl.hub import hide_datasets_progress as hide_datasets_progress
from icl.hub import hide_transformers_progress as hide_transformers_progress
from icl.hub import hub_commit as hub_commit
from icl.hub import hub_problem as hub_problem
from icl.images import Image
from icl.images import decode_image as decode_image
from icl.images import open_image_file as open_image_file
from icl.libraries import PIL as PIL
from icl.libraries import alt as alt
from icl.libraries import av as av
from icl.libraries import datasets as datasets
from icl.libraries import faiss as faiss
from icl.libraries import filelock as filelock
from icl.libraries import httpx2 as httpx2
from icl.libraries import huggingface_hub as huggingface_hub
from icl.libraries import jinja2 as jinja2
from icl.libraries import np as np
from icl.libraries import openai as openai
from icl.libraries import pa as pa
from icl.libraries import pd as pd
from icl.libraries import pydantic as pydantic
from icl.libraries import pydantic_core as pydantic_core
from icl.libraries import ray as ray
from icl.libraries import rich as rich
from icl.libraries import ruamel as ruamel
from icl.libraries import safetensors as safetensors
from icl.libraries import scipy as scipy
from icl.libraries import torch as torch
from icl.libraries import transformers as transformers
from icl.libraries import vllm as vllm
from icl.limited_process import TIMED_OUT as TIMED_OUT
from icl.limited_process import LimitedProcess as LimitedProcess
from icl.loading import SEARCH_FOLDERS as SEARCH_FOLDERS
from icl.loading import code_digest as code_digest
from icl.loading import import_path as import_path
from icl.loading import load_class as load_class
from icl.loading import load_function as load_function
from icl.loading import location as location
from icl.loading import search_candidates as search_candidates
from icl.lru_cache_bytes import LRUByteCache as LRUByteCache
from icl.memory import BatchLimit as BatchLimit
from icl.memory import RowIndex as RowIndex
from icl.memory import StepIndices as StepIndices
from icl.memory import copied_to_device as copied_to_device
from icl.memory import first_line as first_line
from icl.memory import is_out_of_memory as is_out_of_memory
from icl.memory import moved_to_device as moved_to_device
from icl.memory import read_together as read_together
from icl.memory import report_out_of_memory as report_out_of_memory
from icl.memory import wide_dtype as wide_dtype
from icl.memory import widened as widened
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
from icl.models.interventions import TOWER_KINDS as TOWER_KINDS
from icl.models.interventions import Intervention, Site, StateObserver, Where, steer
from icl.models.interventions import Keys as Keys
from icl.models.interventions import TokenPart as TokenPart
from icl.option_listing import LETTERED as LETTERED
from icl.option_listing import OPTION_TEXTS as OPTION_TEXTS
from icl.option_listing import in_texts as in_texts
from icl.option_listing import letter_problem as letter_problem
from icl.option_listing import list_options as list_options
from icl.parameter_files import cache_folder as cache_folder
from icl.parameter_files import expand_user as expand_user
from icl.parameter_files import pin_file as pin_file
from icl.parameter_files import write_cache as write_cache
from icl.registry import ENTRY_POINT_GROUP as ENTRY_POINT_GROUP
from icl.registry import REQUIRED_MEMBERS as REQUIRED_MEMBERS
from icl.registry import BeamCount as BeamCount
from icl.registry import Count as Count
from icl.registry import Fraction as Fraction
from icl.registry import GeneratedCount as GeneratedCount
from icl.registry import LengthPenalty as LengthPenalty
from icl.registry import NestedComponent as NestedComponent
from icl.registry import NonNegative as NonNegative
from icl.registry import PatchesPerSide as PatchesPerSide
from icl.registry import Positive as Positive
from icl.registry import PositiveInt as PositiveInt
from icl.registry import Temperature as Temperature
from icl.registry import build as build
from icl.registry import check_member_names as check_member_names
from icl.registry import class_name as class_name
from icl.registry import component, parameter
from icl.registry import describe as describe
from icl.registry import entries as entries
from icl.registry import later_parameter as later_parameter
from icl.registry import parse as parse
from icl.registry import resolve as resolve
from icl.registry import with_article as with_article
from icl.streams import DRAWS as DRAWS
from icl.streams import StreamKey, stream
from icl.tasks.base import Pool, Task
from icl.tasks.base import SeveralPoolsTask as SeveralPoolsTask
from icl.tasks.base import SharedPoolTask as SharedPoolTask
from icl.tasks.base import limited_choice as limited_choice
from icl.tasks.base import nested_choice as nested_choice
from icl.text.json_text import canonical_bytes as canonical_bytes
from icl.text.json_text import canonical_digest as canonical_digest
from icl.text.json_text import parse_json as parse_json
from icl.text.json_text import parse_json_object as parse_json_object
from icl.text.notebook_html import MAX_IMAGES as MAX_IMAGES
from icl.text.notebook_html import THUMBNAIL_SIDE as THUMBNAIL_SIDE
from icl.text.notebook_html import box_html as box_html
from icl.text.notebook_html import dim_html as dim_html
from icl.text.notebook_html import image_tag as image_tag
from icl.text.notebook_html import table_html as table_html
from icl.text.notebook_html import text_html as text_html
from icl.text.object_mentions import mentions_and_objects as mentions_and_objects
from icl.text.object_mentions import singular as singular
from icl.text.reasoning_blocks import REASONING_MARKERS as REASONING_MARKERS
from icl.text.reasoning_blocks import ReasoningMarkers as ReasoningMarkers
from icl.text.reasoning_blocks import max_output_tokens as max_output_tokens
from icl.text.reasoning_blocks import opened_block as opened_block
from icl.text.reasoning_blocks import split_reasoning as split_reasoning
from icl.types import IMAGE_PLACEHOLDER as IMAGE_PLACEHOLDER
from icl.types import Context, Demo, Example, Generation, Part, Prompt, Query, RetrievedExample, Sample, Turn, Usage
from icl.types import EmptyBlocks as EmptyBlocks
from icl.types import OptionListing as OptionListing
from icl.types import ThinkingEnd as ThinkingEnd
from icl.untrusted import refuse_untrusted as refuse_untrusted
from icl.user_errors import TracebackLog as TracebackLog
from icl.user_errors import collect_tracebacks as collect_tracebacks
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
