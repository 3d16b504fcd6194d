"""The option that an answer chooses by its place: by a letter ("(B)", "option B") or a number ("the second one").

Any letter of an option counts that stands alone and is no word, such as the article. One that the answer rules out
("not A", "A is wrong") does not count, nor does one of several that are joined ("A or B"). A last sentence that is a
letter beats earlier ones.
"""

import re
import string

LETTERS = tuple(string.ascii_uppercase)
"""The options of a question with a letter as its answer and its options in its text."""

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

_LETTERS = re.compile(
    r"(?<![A-Za-z0-9_'’])(?:"
    r"(?P<capital>[A-Z])(?![A-Za-z0-9_'’°²]|[.-][A-Za-z0-9])"
    r"|(?<=[(\[])(?P<bracketed>[a-z])(?=[)\]])"
    r"|(?<=\boption )(?P<named>[a-z])\b|(?<=\bletter )(?P<letter>[a-z])\b"
    r"|^(?P<first>[a-z])(?=\s*[.):])|^(?P<alone>[b-z])$)"
)
_WORDS = re.compile(
    r"A(?=\s+(?!(?:is|was|and|or|because|since|as|but|seems|fits|matches|would|has|shows|best|only)\b)[a-z0-9\"])|I(?=[\s,]+[a-z])"
)
"""A capital letter that is a word: the article or the pronoun."""

_FINAL_LETTER = re.compile(r"(?<![A-Z])[.!?:]\s+[(\[]?([A-Z])[)\]]?\W*$")
"""A last sentence that is a letter: it beats earlier ones."""

_STATED_LETTER = re.compile(
    r"(?:\b(?:is|be|choose|pick|select|with|answer)|:)\s+(?:option |choice |letter )?[(\[]?([A-Z])[)\]]?"
    r"(?=[.,;!)]|\s*$)"
)
"""Of several letters, the one that a sentence ends up with."""

_ONE = r"(?:[Oo]ption\s+)?[(\[]?(?<![\w'])[A-Z](?![\w'])[)\]]?"
_JOINED_LETTERS = re.compile(
    rf"{_ONE}(?:\s*[/&+|]\s*{_ONE}|,?\s+(?:and|or|and/or)\s+{_ONE}|,\s*{_ONE}(?=\s*(?:[.,;!?/]|and\b|or\b|$)))+"
)
"""Letters that are alternatives or a list: "A or B", "A, B and C", "A/B"."""

_LETTER = r"(?:option\s+)?[(\[]?[A-Za-z][)\]]?(?![\w'])"
_NOT_LETTER = re.compile(
    rf"(?i:\bnot|n't|\bcannot|\bneither)(?:\s+be)?\s+{_LETTER}(?:\s+(?:or|nor)\s+{_LETTER})*"
    rf"|(?i:\b(?:rules?|ruling)\s+out|\beliminat(?:e|es|ing)|\bexclud(?:e|es|ing))\s+{_LETTER}(?:(?:,|\s+and)\s+{_LETTER})*"
    r"|[A-Z](?:[和、与,]\s*[A-Z])*\s*(?:都|均)?(?:不|错)"
    r"|\b[A-Z]\s+would\b[^.]{0,100}\bif\b"
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
    if final := _FINAL_LETTER.search(text):
        text = final[1]
    text = _JOINED_LETTERS.sub(_common_letter, text)
    letters = {match[0].upper() for match in _LETTERS.finditer(text) if not _WORDS.match(text, match.start())}
    if len(letters) > 1:
        stated = set(_STATED_LETTER.findall(text))
        letters = stated if len(stated) == 1 else letters
    named = {option.strip().upper(): option for option in options}
    if not all(len(name) == 1 and name.isalpha() for name in named):
        named = {chr(ord("A") + place): option for place, option in enumerate(options[:26])}
    chosen = {named[letter] for letter in letters if letter in named}
    if not chosen and not any(re.search(r"\d", option) or option.lower() in ORDINALS for option in options):
        chosen = {options[place] for place in map(_place, _NUMBERED.finditer(answer)) if place < len(options)}
    return chosen.pop() if len(chosen) == 1 else None


def is_letter(text: str) -> bool:
    """Whether an answer is one capital letter, which names an option of the question."""
    return text.strip() in LETTERS


def _common_letter(joined: re.Match[str]) -> str:
    """The letter of "B, (B)"; a blank for different letters."""
    letters = set(re.findall(r"\b[A-Z]\b", joined[0]))
    return joined[0] if len(letters) == 1 else " "


def _place(match: re.Match[str]) -> int:
    ordinal = match["ordinal"] or match["named"]
    return ORDINALS.index(ordinal.lower()) if ordinal else int(match["digit"]) - 1
