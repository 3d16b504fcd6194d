"""The context budget: what does not fit is dropped by whole demonstrations, the least similar first, never the query.

Tokens are counted by the model on the composed prompt, images at the size it gives them. Nothing is truncated: a
query that does not fit alone is an error.
"""

from collections.abc import Callable
from dataclasses import replace

from icl.errors import PlanError
from icl.types import Context, Prompt
from prompts.base import Composer


def fit(
    context: Context, composer: Composer, count_tokens: Callable[[Prompt], int], limit: int | None, reserve: int = 0
) -> tuple[Prompt, Context, tuple[str, ...]]:
    """The composed prompt, the context that it shows, and the ids of the demonstrations dropped, least similar first.

    limit: tokens of prompt and answer together, None for no limit. reserve: tokens kept for the answer. The context
    notes what was dropped in its provenance. Raises PlanError where the query does not fit without demonstrations.
    """
    whole = composer.compose(context)
    if limit is None or count_tokens(whole) <= limit - reserve:
        return whole, context, ()
    room = limit - reserve
    kept, too_many = 0, len(context.demos)
    fitting, fits = _best(context, composer, 0)
    if (alone := count_tokens(fits)) > room:
        raise PlanError(
            f"query '{context.query.id}' takes {alone:,} tokens without any demonstration, and the model's context of "
            f"{limit:,} leaves {max(room, 0):,} beside {reserve:,} for the answer. Use smaller images, a smaller "
            f"max_new_tokens, or a model with a longer context."
        )
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        shorter, prompt = _best(context, composer, middle)
        if count_tokens(prompt) <= room:
            kept, fitting, fits = middle, shorter, prompt
        else:
            too_many = middle
    shown = {demo.example.id for demo in fitting.demos}
    least = sorted(context.demos, key=lambda demo: -demo.rank)
    dropped = tuple(demo.example.id for demo in least if demo.example.id not in shown)
    return fits, replace(fitting, provenance=(*context.provenance, f"budget: dropped {', '.join(dropped)}")), dropped


def _best(context: Context, composer: Composer, count: int) -> tuple[Context, Prompt]:
    """The `count` best-ranked demonstrations in the order in which they stood."""
    places = sorted(range(len(context.demos)), key=lambda i: context.demos[i].rank)[:count]
    shorter = replace(context, demos=tuple(context.demos[i] for i in sorted(places)))
    return shorter, composer.compose(shorter)
