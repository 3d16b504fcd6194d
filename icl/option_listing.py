"""The options of a question in its text: by their texts, or by letters, which are then the options and the answers.

    texts     Which color is it?
              Options: red, green.                                              -> green
    letters   Which color is it?
              A. red
              B. green
              Answer with the option's letter from the given choices directly.  -> B

An example says by its `listing` how its options are listed. This is done last, after the transforms of a context, so
retrievers compare questions without options, and label transforms rename texts. The transform `option_list` lists the
options in place of the example's listing.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any, TypeVar

from icl import Context, DataError, Example, OptionListing, Query

Item = TypeVar("Item", bound="Example | Query")

_WORD = re.compile(r"\w+")
_OWN_LETTER = re.compile(r"\(?([A-Za-z])(?:[.):]|\.\))\s+(?=\S)")
OPTION_TEXTS = "option_texts"
"""Key of `meta`: the texts of the options, in the order of their letters."""

LETTERED = OptionListing(
    "\n{options}\nAnswer with the option's letter from the given choices directly.", "\n", letters=True
)


def with_listed_options(item: Item, listing: OptionListing, shift: int = 0) -> Item:
    """The example or query with its options in its question, rotated to the left by `shift` places.

    Raises DataError if there are more options than letters.
    """
    if not item.options:
        return item
    start = shift % len(item.options)
    texts = (*item.options[start:], *item.options[:start])
    lines = texts
    if listing.letters:
        lines = tuple(f"{letter}. {text}" for letter, text in zip(_letters(texts, item.id), texts, strict=True))
    listed = replace(item, question=listing.write(item.question, lines), listing=None)
    return with_letters(listed, texts) if listing.letters else listed


def with_letters(item: Item, texts: Sequence[str]) -> Item:
    """The example or query with letters as its options. Accepted answers are the letter of each text, then the texts.

    An answer that is no option, such as the random answer of a demonstration, keeps its text alone. Texts that are
    letters themselves are not accepted: the text "A" may be option B.
    """
    letters = _letters(texts, item.id)
    changes: dict[str, Any] = {"options": letters, "meta": {**item.meta, OPTION_TEXTS: list(texts)}}
    if answers := getattr(item, "answers", ()):
        accepted = {_plain(answer) for answer in answers}
        own = [letter for letter, text in zip(letters, texts, strict=True) if _plain(text) in accepted]
        changes["answers"] = (*own, *(() if _are_letters(texts) and own else answers))
    return replace(item, **changes)


def in_texts(example: "Example") -> "Example":
    """The example with the texts of its options in place of their letters; the example itself if nothing is replaced.

    Texts that are letters themselves stay unknown: an output "B" is then the letter of an option.
    """
    texts = example.meta.get(OPTION_TEXTS, ())
    if not texts or _are_letters(texts) or example.options != _letters(texts, example.id):
        return example
    text_of = dict(zip(example.options, texts, strict=True))
    answers = dict.fromkeys(text_of.get(answer, answer) for answer in example.answers)
    return replace(example, answers=tuple(answers), options=tuple(texts))


def without_letters(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without letters of their own, if each begins with the letter of its place: ("A. cat", "B. dog")."""
    matches = [_OWN_LETTER.match(text) for text in texts]
    own = "".join(match[1].upper() if match else "-" for match in matches)
    if len(texts) < 2 or own != ascii_uppercase[: len(texts)]:
        return tuple(texts)
    return tuple(text[match.end() :] for text, match in zip(texts, matches, strict=True) if match)


def letter_problem(example: "Example") -> str:
    """Why no accepted answer has a letter, in a sentence, if the options are listed by letters; '' otherwise."""
    accepted = {_plain(answer) for answer in example.answers}
    is_by_letter = example.listing is not None and example.listing.letters
    if not is_by_letter or any(_plain(option) in accepted for option in example.options):
        return ""
    return (
        f"the answer '{example.answer}' of '{example.id}' is not among its options ({', '.join(example.options)}), so "
        "it has no letter. Spell them alike, or set answer_is if answers are letters or indices of options."
    )


def list_options(context: "Context") -> "Context":
    """The context with the options of each example listed as the example says."""
    demos = tuple(
        demo if demo.example.listing is None else replace(demo, example=_as_declared(demo.example))
        for demo in context.demos
    )
    return replace(context, query=_as_declared(context.query), demos=demos)


def _as_declared(item: Item) -> Item:
    """The item with its own listing. A question that names all its options needs no list of their texts."""
    if item.listing is None:
        return item
    words = f" {' '.join(_WORD.findall(_plain(item.question)))} "
    named = (f" {' '.join(_WORD.findall(_plain(option)))} " for option in item.options)
    if not item.listing.letters and all(name in words for name in named):
        return item
    return with_listed_options(item, item.listing)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _are_letters(texts: Sequence[str]) -> bool:
    return {text.strip().upper() for text in texts} <= set(ascii_uppercase)


def _letters(texts: Sequence[str], name: str) -> tuple[str, ...]:
    if len(texts) > len(ascii_uppercase):
        raise DataError(
            f"'{name}' has {len(texts)} options, more than there are letters. List them by texts (list_options: texts)."
        )
    return tuple(ascii_uppercase[: len(texts)])
