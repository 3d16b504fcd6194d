from experiments.contexts.contexts import Retrieval as Retrieval
from experiments.contexts.contexts import build_contexts as build_contexts
from experiments.contexts.contexts import prompt_specs as prompt_specs
from experiments.contexts.contexts import render as render
from experiments.contexts.prompt_notes import PromptNotes as PromptNotes
from experiments.contexts.request_sizes import estimate_sizes as estimate_sizes
