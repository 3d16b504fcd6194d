"""Refuse implausible sizes before anything is read or computed."""

from experiments.grid.grid import Grid
from icl.errors import PlanError

MIN_CHECKED_TOKENS = 1024
"""Longer answers are compared with the model's context, which needs the model's config."""


def check_sizes(grid: Grid) -> None:
    """Raises PlanError if an answer may be longer than the model's context. Reads no weights."""
    for cell in {(id(cell.model), cell.max_output_tokens): cell for cell in grid.cells}.values():
        if cell.max_output_tokens < MIN_CHECKED_TOKENS or cell.answer_mode == "options":
            continue
        context = cell.model.max_tokens
        if context is not None and cell.max_output_tokens >= context:
            key = "max_new_tokens" if cell.max_new_tokens >= context else "max_thinking_tokens"
            keys = ("grid", key) if key in grid.config.grid else (key,)
            raise PlanError(
                f"{grid.config.where(*keys)}: an answer of {cell.max_output_tokens:,} tokens leaves no space for a "
                "prompt: "
                f"model '{cell.labels['model']}' reads {context:,} tokens, prompt and answer together."
            )
