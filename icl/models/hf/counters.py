"""Counters of a model's work, to measure how much computation caches save."""

from dataclasses import dataclass


@dataclass
class ModelCounters:
    """Counts of a model's work since it was loaded.

    Attributes:
        num_images: Images in the opened prompts.
        images_encoded: Images that went through the vision tower.
        prompt_tokens: Tokens of the distinct prompts opened.
        prefill_tokens: Prompt tokens that were forwarded, without padding.
        padded_tokens: The same with padding.
        shared_prefix_tokens: Prompt tokens that were reused from the rows of another session.
        decode_tokens: Tokens forwarded after a prefill.
        suffix_tokens: Tokens forwarded to score options.
        forwards: Calls of the language model, including prefills.
        graph_steps: Calls that a graph computed (`cuda_graphs`).
        prefills: Prefill calls.
    """

    num_images: int = 0
    images_encoded: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    padded_tokens: int = 0
    shared_prefix_tokens: int = 0
    decode_tokens: int = 0
    suffix_tokens: int = 0
    forwards: int = 0
    graph_steps: int = 0
    prefills: int = 0
