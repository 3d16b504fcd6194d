"""The option that an answer chooses by its place: by a letter ("(B)", "option B") or a number ("the second one").

A letter that the answer rules out ("not A", "A is wrong") does not count.
"""

import re

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

_LETTERS = (
    re.compile(r"[(\[]([A-Za-z])[)\]]"),
    re.compile(r"\b(?:option|choice|letter|answer)\s+([A-Z])\b", re.IGNORECASE),
    re.compile(
        r"\b(?i:image|figure|panel|picture|statement|diagram|graph|object|shape|person|box|group|row)\s+([A-Z])\b"
    ),
    re.compile(r"^([A-Za-z])\s*[.):,](?!\w)"),
    re.compile(r"^([A-Zb-z])$"),  # "a" alone is an article whose noun is missing
    re.compile(r"(?:^|[.;,]\s+)([A-Z])\s+(?:is\s+(?:the\s+)?(?:correct|right|best|answer)\b|[-–—]\s)"),
    re.compile(
        r"(?i:\bchoose|\bpick|\bselect|\bgo with|\blabell?ed|\bmarked|\bit's|\bis|\bmust be|\b(?:points|leads) to"
        r"|\bindicates|\bsuggests|\bbut|\bor|\band|/)"
        r"\s*([A-Z])(?=[.,;:!)]|\s*$)"
    ),
    re.compile(r"^[A-Z]\s*,\s*([A-Z])\b"),
    re.compile(r"[.!?]\s+([A-Z])\W*$"),
    re.compile(r"选项\s*([A-Z])"),
    re.compile(r"(?i:\bleaves(?: only)?)\s+(?:option\s+)?[(\[]?([A-Z])\b"),
    re.compile(r"^(?i:either)\s+([A-Z])\b"),
    re.compile(r"^([A-Z])(?=\s*(?:,|/|&|\bor\b|\band\b)\s*[(\[]?[A-Z]\b)"),
)
_LETTER = r"(?:option\s+)?[(\[]?[A-Za-z][)\]]?(?![\w'])"
_NOT_LETTER = re.compile(
    rf"(?i:\bnot|n't|\bcannot)(?:\s+be)?\s+{_LETTER}(?:\s+(?:or|nor)\s+{_LETTER})*"
    rf"|(?i:\b(?:rules?|ruling)\s+out|\beliminat(?:e|es|ing)|\bexclud(?:e|es|ing))\s+{_LETTER}(?:(?:,|\s+and)\s+{_LETTER})*"
    r"|(?:\b|[(\[])[A-Z][)\]]?(?:(?:,|\s+and)\s+[A-Z])*\s+(?:is|are|can\s+be)(?:\s+(?:clearly|definitely|obviously))?\s+"
    r"(?:not\b|wrong|incorrect|false|out\b|eliminated|ruled\s+out|excluded)"
)
_ORDINAL = "|".join(ORDINALS)
_NUMBERED = re.compile(
    rf"^(?:(?:the|option|choice|number|no\.)\s+)*(?P<ordinal>{_ORDINAL})(?:\s+(?:one|option|choice|answer))?(?!\s*\w)"
    rf"|\b(?P<named>{_ORDINAL})\s+(?:option|choice)\b|\b(?:option|choice)\s+(?:number\s+)?(?P<digit>[1-9])\b",
    re.IGNORECASE,
)


def chosen_by_place(answer: str, options: tuple[str, ...]) -> str | None:
    """The option whose letter or number the answer gives; None if it gives none, or several."""
    text = re.sub(r"[\s,;]*\b(?:and|but|or)?[\s,;.]*$", "", _NOT_LETTER.sub("", answer))
    letters = {match[1].upper() for pattern in _LETTERS for match in pattern.finditer(text)}
    named = {option.strip().upper(): option for option in options}
    if not all(len(name) == 1 for name in named):
        named = {chr(ord("A") + place): option for place, option in enumerate(options[:26])}
    chosen = {named[letter] for letter in letters if letter in named}
    if not chosen and not any(re.search(r"\d", option) or option.lower() in ORDINALS for option in options):
        chosen = {options[place] for place in map(_place, _NUMBERED.finditer(answer)) if place < len(options)}
    return chosen.pop() if len(chosen) == 1 else None


def _place(match: re.Match[str]) -> int:
    ordinal = match["ordinal"] or match["named"]
    return ORDINALS.index(ordinal.lower()) if ordinal else int(match["digit"]) - 1
