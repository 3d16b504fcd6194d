"""Old names of components, parameters, keys and values, so that an error can name the new one.

Nothing is loaded under an old name. A row's key is `kind:old`, where kind is `component`, `parameter`, `key` (of a
config file), `value` (of a parameter, or a preset) or `analysis`. `parameter:knn.reach` limits a row to one component.
"""

import re
from collections.abc import Collection

from icl.errors import did_you_mean

RENAMED: dict[str, str] = {
    "component:made_up": "random_colors",
    "component:misled": "misled_rate",
    "component:leaking": "with_leaks",
    "component:disrupted": "neighbor_swap",
    "component:spread": "diverse_subset",
    "component:one_word": "e5v",
    "component:sentence": "sentence_transformers",
    "component:listed": "option_list",
    "component:described": "descriptions",
    "component:grid": "frame_grid",
    "component:label_at": "label_position",
    "parameter:neighbor_swap.place": "position",
    "parameter:label_position.place": "position",
    "parameter:filtered.near": "max_similarity",
    "parameter:reranked.rerank": "rerankers",
    "component:unparsed": "unparsed_rate",
    "component:varied": "random_augmentation",
    "component:yes": "yes_ratio",
    "parameter:drawn_from": "concept_set",
    "parameter:pool_share": "pool_fraction",
    "parameter:operators.told": "name_operator",
    "parameter:interleaved_operators.told": "name_operator",
    "parameter:printed_text.told": "name_box",
    "value:seen": "image",
    "key:rerank": "rerankers",
    "key:candidates": "rerank_candidates",
    "key:compose": "composer",
    "key:score": "answer_mode",
    "key:trace": "top_logprobs",
    "key:late_contrast": "lazy_branches",
    "key:late": "lazy_branches",
    "key:launch": "launcher",
    "key:correct": "correction",
    "parameter:vllm.tensor_parallel": "tensor_parallel_size",
    "parameter:vllm.data_parallel": "data_parallel_size",
    "parameter:vllm.gpu_memory": "gpu_memory_utilization",
    "parameter:vllm.prefix_caching": "enable_prefix_caching",
    "parameter:fake-gold.right": "accuracy",
    "analysis:following": "label_following",
    "analysis:identifiable": "identifiability",
    "analysis:modality": "modality_sensitivity",
    "analysis:pool": "pool_coverage",
    "analysis:precision": "label_precision",
    "parameter:code.ask": "instruction",
    "parameter:code.tokens": "max_new_tokens",
    "parameter:dcd.ask": "instruction",
    "parameter:dcd.tokens": "max_new_tokens",
    "value:asked": "recognized",
    "value:surer": "dynamic",
    "parameter:m3id.first": "first_step",
    "parameter:m3id.unsure": "threshold",
    "parameter:moicl.sparse": "top_k",
    "parameter:more_demonstrations.times": "factor",
    "parameter:nbce.pool": "pooling",
    "parameter:nbce.stickiness": "eta",
    "value:surest": "min_entropy",
    "parameter:random_gate.share": "probability",
}
"""`kind:old` -> new. A rename that follows from `RENAMED_WORDS` needs no row."""

RENAMED_WORDS: dict[str, str] = {
    "picture": "image",
    "colour": "color",
    "coloured": "colored",
    "normalise": "normalize",
    "normalised": "normalized",
    "labelled": "labeled",
    "centred": "centered",
    "grey": "gray",
    "favoured": "favored",
    "neighbour": "neighbor",
    "recognise": "recognize",
    "recognised": "recognized",
    "summarisation": "summarization",
}
"""Words that changed inside every name: `no_picture` is `no_image`, `mean_colour` is `mean_color`."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(RENAMED_WORDS, key=len, reverse=True))})(?=s?(?![a-z]))")


def new_name(kind: str, old: str, names: Collection[str], component: str = "") -> str | None:
    """The new name of an old one, if `names` contains it.

    Args:
        kind: What the name is of: 'component', 'parameter', 'key', 'value' or 'analysis'.
        old: The name that was not recognized.
        names: The names that are valid in its place.
        component: The component that the parameter or value belongs to.
    """
    words = _WORD.sub(lambda match: RENAMED_WORDS[match[0]], old)
    for new in (RENAMED.get(f"{kind}:{component}.{old}"), RENAMED.get(f"{kind}:{old}"), words):
        if new is not None and new != old and new in names:
            return new
    return None


def suggest(kind: str, old: str, names: Collection[str], component: str = "") -> str:
    """The end of a sentence about an unknown name: its new name, or the nearest valid one.

    ": it is now 'image'." after a rename, ". Did you mean 'image'?" for a typing error, "." otherwise.
    """
    new = new_name(kind, old, names, component)
    return f": it is now '{new}'." if new else f".{did_you_mean(old, names)}"
