"""The vocabulary of the tiny models: whole words, with single characters as the fallback.

`encode` is what training uses; the shipped tokenizer (`tokenizer`) gives the same ids, which the tests check.
"""

import re
import string
from collections.abc import Iterator
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icl.tasks.generated import wording
from icl.tasks.generated.world import SHAPES
from prompts.pieces import INSTRUCTIONS

SPECIAL = ("<pad>", "<unk>", "<q>", "<a>", "<end>", "<fake_token_around_image>", "<global-img>", "<image>")
PUNCTUATION = tuple("?.:,!-=+*'\"/();")
NUMBERS = tuple(str(i) for i in range(100))
# Words that no template has but that prompts about images often do.
COMMON = """
    a an the what which who is are was be it this that these there here in on of to by with and or as at for
    from not no yes do does did can you we they me your its image picture pictures photo show shown see seen
    look describe name named called class label object objects thing things shape shapes color colour number
    count how many much more most than less left right top bottom center middle above below next same other
    different each example examples following question answer answers please give only one word words single
    small medium large big result expression plus minus times equal equals means goes text pair true false first
    second last class visible contain contains present other none any all every between
    """.split()  # noqa: SIM905 (a list of words reads better as text)

_SPLIT = re.compile(r"\w+|[^\w\s]")


def _strings(thing: object) -> Iterator[str]:
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(thing, tuple | list):
        for item in thing:
            yield from _strings(item)


def wording_words() -> list[str]:
    """Every word that the generated tasks and the instructions can write, sorted."""
    texts = [text for name, thing in vars(wording).items() if name.isupper() for text in _strings(thing)]
    texts += [*(wording.plural(shape) for shape in SHAPES), *_strings(INSTRUCTIONS)]
    return sorted({w for text in texts for w in _SPLIT.findall(re.sub(r"\{\w+\}", " ", text).lower()) if w.isalnum()})


_WORDS = sorted(set(wording_words()) - set(wording.NONCE) - set(NUMBERS) | set(COMMON))
_LETTERS = [*string.ascii_lowercase, *("##" + c for c in string.ascii_lowercase + string.digits)]
TOKENS: tuple[str, ...] = tuple(dict.fromkeys([*SPECIAL, *PUNCTUATION, *_WORDS, *NUMBERS, *wording.NONCE, *_LETTERS]))
ID = {token: i for i, token in enumerate(TOKENS)}
PAD, UNK, USER, ASSISTANT, END, FAKE, GLOBAL, IMAGE = range(8)


@cache
def encode(text: str) -> tuple[int, ...]:
    """Ids of a text without special tokens: lower case, words and punctuation, characters for unknown words."""
    out: list[int] = []
    for word in _SPLIT.findall(text.lower()):
        start, prefix, pieces = 0, "", []
        while start < len(word):
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in ID), None)
            if end is None:
                pieces = [UNK]
                break
            pieces.append(ID[prefix + word[start:end]])
            start, prefix = end, "##"
        out += pieces
    return tuple(out)


def text_of(ids: tuple[int, ...]) -> str:
    """Tokens joined by spaces; it encodes to the same ids."""
    return " ".join(TOKENS[i] for i in ids)


def tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The same vocabulary as a fast tokenizer that pads on the left."""
    core = Tokenizer(models.WordPiece(ID, unk_token="<unk>", max_input_chars_per_word=64))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.decoder = decoders.WordPiece(prefix="##")
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        padding_side="left",
        model_max_length=max_length,
        additional_special_tokens=[t for t in SPECIAL if t not in ("<unk>", "<pad>", "<end>")],
        extra_special_tokens={"end_of_utterance_token": "<end>"},
    )
