"""The context budget. It drops whole demonstrations, the least similar first, and never the query.

The model counts the tokens of the composed prompt, with images at the size that the model gives them. Nothing is
truncated: a query that does not fit alone is an error.
"""

from collections.abc import Callable
from dataclasses import replace

from icl import Composer, Context, PlanError, Prompt


class ContextTooShortError(PlanError):
    """A query does not fit into the context of the model, even without demonstrations."""


def fit(
    context: Context, composer: Composer, count_tokens: Callable[[Prompt], int], limit: int | None, reserve: int = 0
) -> tuple[Prompt, Context, tuple[str, ...]]:
    """Compose the prompt with as many demonstrations as fit.

    Args:
        context: Query and demonstrations.
        composer: Composer of the prompt.
        count_tokens: Counts the tokens of a prompt.
        limit: Tokens of prompt and answer together, None for no limit.
        reserve: Tokens reserved for the answer.

    Returns:
        The prompt, the context that it shows, and the ids of the dropped demonstrations, the least similar first. The
        context's provenance records them.

    Raises:
        ContextTooShortError: The query does not fit without demonstrations.
    """
    whole = composer.compose(context)
    if limit is None or count_tokens(whole) <= limit - reserve:
        return whole, context, ()
    available = limit - reserve
    fitting_count, too_many = 0, len(context.demos)
    fitting_context, fitting_prompt = _compose_best(context, composer, 0)
    if (alone := count_tokens(fitting_prompt)) > available:
        raise ContextTooShortError(
            f"query '{context.query.id}' takes {alone:,} tokens without any demonstration, and the model's context of "
            f"{limit:,} leaves {max(available, 0):,} after {reserve:,} for the answer. Use smaller images, a shorter "
            f"instruction, a smaller max_new_tokens, or a model with a longer context."
        )
    while too_many - fitting_count > 1:
        middle = (fitting_count + too_many) // 2
        shorter, prompt = _compose_best(context, composer, middle)
        if count_tokens(prompt) <= available:
            fitting_count, fitting_context, fitting_prompt = middle, shorter, prompt
        else:
            too_many = middle
    shown_ids = {demo.example.id for demo in fitting_context.demos}
    by_rank = sorted(context.demos, key=lambda demo: -demo.rank)
    dropped = tuple(demo.example.id for demo in by_rank if demo.example.id not in shown_ids)
    return (
        fitting_prompt,
        replace(fitting_context, provenance=(*context.provenance, f"budget: dropped {', '.join(dropped)}")),
        dropped,
    )


def _compose_best(context: Context, composer: Composer, count: int) -> tuple[Context, Prompt]:
    """The `count` best-ranked demonstrations in their original order, composed."""
    places = sorted(range(len(context.demos)), key=lambda i: context.demos[i].rank)[:count]
    shorter = replace(context, demos=tuple(context.demos[i] for i in sorted(places)))
    return shorter, composer.compose(shorter)
