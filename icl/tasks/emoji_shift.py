"""Emoji as a distribution shift: emoji in five styles of four vendors, with one vendor for the queries and the others
in the pool.

    noto         emoji-datasource-google 16           PNG 64       Google's Noto             Apache-2.0 and OFL
    twemoji      emoji-datasource-twitter 16          PNG 64       Twemoji                   CC-BY-4.0
    fluent       @lobehub/fluent-emoji-3d 1.1         WebP 256     Microsoft's 3-D style     MIT
    fluent-flat  @iconify-json/fluent-emoji-flat 1.2  SVG          Microsoft's flat style    MIT
    openmoji     openmoji 17                          SVG          line drawings             CC-BY-SA-4.0

Microsoft's two styles are one design: if one of them is held out, the other is not in the pool. Names and groups of the
emoji come from emojibase-data 17 (MIT). The npm packages are pinned in the folder `emoji_shift_npm` and are not part of
the toolkit. `resvg-py` renders the SVGs. The task uses the 1,500 emoji that all styles have, without flags and skin
tones.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from icl import Example, Pool, PositiveInt, SharedPoolTask, StreamKey, component, expand_user, nested_choice, parameter
from icl.tasks.drawings.emoji import PACKAGES, STYLES, Style, load_emoji, same_vendor

FEWEST = 5
QUESTIONS = {"subgroup": "What kind of emoji is this?", "emoji": "Which emoji is this?"}


@component("task", "emoji-shift")
@dataclass(frozen=True)
class EmojiShiftTask(SharedPoolTask):
    """Emoji in five styles: queries have the style that is held out, the pool has those of other vendors.

    The domain is the style, the group is the emoji. Classes are the emoji themselves, with three or four drawings each
    in a pool, or emojibase's subgroups of five or more ("animal bird"). Halves divide the emoji at random: a head that
    is trained on the first half is tested on emoji of the second, none of whose drawings it has seen.
    """

    held_out: Style = "openmoji"  # the style of the queries
    classes: Literal["emoji", "subgroup"] = "emoji"  # level of the answers
    half: Literal["both", "first", "second"] = "both"  # half of the emoji, in pool and queries
    query_limit: PositiveInt | None = parameter("queries", None)  # number of queries, a nested choice; None: all emoji
    seed: int = 0  # random seed of halves and choice, independent of the seeds of a run
    modules: str | None = None  # another `node_modules` with the packages

    @property
    def title(self) -> str:
        half = "" if self.half == "both" else f", {self.half} half"
        return f"emoji-shift by {self.classes} ({self.held_out}{half})"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        every = self._examples(self.held_out)
        chosen = nested_choice([e.group or e.id for e in every], self.query_limit, self.seed, "emoji-shift/queries")
        return tuple(every[i] for i in chosen)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(
            tuple(e for style in STYLES if not same_vendor(style, self.held_out) for e in self._examples(style))
        )

    def _half(self, code: str) -> str:
        return ("first", "second")[StreamKey(self.seed, code).number("emoji-shift/half", 1)]

    def _examples(self, style: Style) -> list[Example]:
        modules = expand_user(self.modules) if self.modules else PACKAGES / "node_modules"
        labeled = [(emoji, emoji.classes[self.classes]) for emoji in load_emoji(modules)]
        size = Counter(name for _, name in labeled)
        if self.classes == "subgroup":
            labeled = [(emoji, name) for emoji, name in labeled if size[name] >= FEWEST]
        labeled = [(emoji, name) for emoji, name in labeled if self.half in ("both", self._half(emoji.code))]
        return [
            Example(
                id=f"{style}-{emoji.code}",
                images=(emoji.image(style),),
                question=QUESTIONS[self.classes],
                answers=(name,),
                label=name,
                domain=style,
                group=emoji.code,
            )
            for emoji, name in labeled
        ]
