"""Words of captions, split as the released COCO caption evaluation splits them (Chen et al., 1504.00325).

The released evaluation runs the tokenizer of Stanford CoreNLP 3.4.1 (`PTBTokenizer -preserveLines -lowerCase`), which
needs Java, and then removes punctuation. This module splits in the same way without Java. At each position the longest
pattern wins, and the first one among equally long patterns. Some patterns look at characters behind their group
`token`: these count for the length, but the next token starts with them.

Two differences from the released code. It reads all captions as one text, so that "vitamin C." at the end of a caption
depends on the first word of the next caption; here each caption stands alone. And letters that entered Unicode after
2010 are words here, while the released code drops them.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

CACHE_ENTRIES = 100_000
"""Size of the cache: the captions and references of a data set, which every cell reads again."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that the evaluation removes. Its list also has "-LRB-", but by then tokens are in lower case: "(" stays."""

_MARKS = (
    "\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0384\u0385\u03f6\u0483-\u0487\u055a-\u055f"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed"
    "\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955"
    "\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03"
    "\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03"
    "\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
)  # accents and vowel signs that are letters
_SYMBOLS = (
    "$%&<->\\\\^|~\xa1\xa5-\xa9\xac\xae-\xb4\xb6-\xb9\xbf\xd7\xf7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6"
    "\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8"
    "\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070"
    "\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125"
    "\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012"
    "\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)  # characters that are tokens by themselves
_NOT_WORDS = "\xb2\xb3\xb9\xbc-\xbe\u09f4-\u09f9\u2070-\u218f\u2460-\u2793\U00010000-\U0010ffff"  # \w for Python only
_QUOTES = "`\u2018\u2019\u201b-\u201d\u2039\u203a\xab\xbb\x91-\x94"

L = rf"(?:[^\W\d_{_NOT_WORDS}]|[{_MARKS}])"  # a letter
W = rf"(?:[^\W_{_NOT_WORDS}]|[{_MARKS}])"  # a letter or a digit
A = "['\u2019\x92]"  # an apostrophe
Q = "['\u2018\u2019\u201b\x91\x92`]"  # an apostrophe or a quotation mark that is used as one
WORD = rf"{L}{W}*(?:[.!?]{L}{W}*)*"  # "street.The" is one word: only a blank ends a sentence
CLITIC = rf"{A}(?i:[msd]|re|ve|ll)"
NEGATION = rf"(?i:n{Q}t)"
NAME = "[A-Za-z][A-Za-z0-9_:.-]*"  # of a tag or an attribute


def _any_of(words: str) -> str:
    return "|".join(words.split())


_LISTED = _any_of(r"""
al ala apr ariz assn aug az bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga
inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn ph\.d plc ppty pte
pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
""")
_CAPITALIZED = _any_of("Ark Del Ill La Mass Miss Ore Pa Tex Wash")  # words if they have no capital
_TITLES = _any_of("""
adj adm adv alex assoc asst atty ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov hon insp
invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof pvt rep reps rev sen sens sfc sgt
spc st ste supt treas vs wm
""")
_STARTS = _any_of(r"""
A About According After An As At But Earlier He Her Here However If In It Last Many More Mr\. Now Once One Other Our
She Since So Some Such That The Their Then There These They This We What When While Yet You
""")  # after them, "vitamin C." has ended a sentence
_FILE_TYPES = _any_of("""
bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar
txt wav x xml zip
""")
ABBREVIATION = rf"(?:(?i:{_LISTED})|{_CAPITALIZED})\."
NO_HOST, NO_PATH = r"\s\"<>|()", r"\s\"<>|.!?(){},-"  # characters that an address cannot contain, or end with

_PATTERNS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # two words written as one: can|not, gon|na, 't|was
        r"(?i:(?P<token>can)not)",
        r"(?i:(?P<token>gon|wan)na)",
        r"(?i:(?P<token>got)ta)",
        r"(?i:(?P<token>gim|lem)me)",
        r"(?i:(?P<token>'t)(?:is|was))",
        # tags and entities
        rf"<(?:[!?][A-Za-z-][^>]*|{NAME}(?:\ +{NAME}(?:\ *=\ *(?:'[^']*'|\"[^\"]*\"|{NAME}))?)*\ */?|/{NAME})\ *>",
        r"&(?:\#\d+|[aeiouAEIOU](?:acute|grave|uml)|amp|lt|gt|quot|apos|nbsp);",
        # words before a contraction, contractions, other words
        rf"(?P<token>{WORD}){CLITIC}",
        rf"(?P<token>[A-Za-z]+?)(?<![nN]){NEGATION}",
        rf"(?P<token>{CLITIC})[^A-Za-z]",
        rf"{NEGATION}{L}*",
        WORD,
        rf"[^\W_{_NOT_WORDS}]+(?:_[^\W_{_NOT_WORDS}]+)+",
        rf"\d[^\W_{_NOT_WORDS}]*",
        rf"{W}+(?:\.{W}+)*\.(?i:{_FILE_TYPES})(?=[\s.?!,])",
        # words with an apostrophe of their own, and an opening quotation mark
        rf"(?P<token>[yY]{A}){L}",
        rf"{A}[nN]{A}?|[lLdDjJ]{A}|(?i:ol){A}|somethin{A}|Dunkin{A}",
        rf"{A}(?i:em|till?|cause)|{A}\d0s|{A}\d\d(?=\s)",
        r"(?i:e'er|c'est|s'mores|li'l|c'mon|nat'l)",
        r"(?P<token>')[A-Za-z]\S",
        CLITIC,
        rf"[dDoOlL]{Q}{L}{W}+",
        rf"[A-HJ-XZn]{Q}{L}{{2,}}",
        rf"{L}+[aeiouyAEIOUY]{Q}[aeiouA-Z]{L}*|[oO]{Q}[oO]",
        # addresses
        rf"https?://[^{NO_HOST}]+[^{NO_PATH}]",
        rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}(?:/[^{NO_HOST}]+[^{NO_PATH}])?",
        rf"(?:[^\s\"`'<>|!?(){{}},-_$]+\.)+(?:com|net|org|edu)(?:/[^{NO_HOST}]+[^{NO_PATH}])?",
        rf"[a-zA-Z0-9][^{NO_HOST}{{}}]*@(?:[^{NO_HOST}.{{}}]+\.)*[^{NO_HOST}.{{}}]+",
        r"@[A-Za-z_][A-Za-z_0-9]*",
        rf"\#{L}+",
        # numbers, dates, fractions ("2 1/2" is one token), telephone numbers
        r"[-+]?\d*(?:[.:,\u066b\u066c]\d+)+",
        r"[-+]?\d+",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        r"(?:\d{1,4}[- \xa0])?\d{1,4}[/\u2044]\d{1,4}",
        r"(?:\(\d{2,3}\)[ \xa0]?|(?:\+\+?)?(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0])\d{3,4}[- \xa0]?\d{3,5}",
        # compounds: red-hot, non-U.S., and/or, B&W
        rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:(?:[A-Za-z]\.){{2,}}|{W}+))+",
        rf"(?:[dDoOlL]{A}{L})?{W}+(?:[-_\u058a\u2010\u2011](?:[dDoOlL]{A}{L})?{W}+)+",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+",
        r"[A-Z]+\$|[cC]\+\+|[cCfF]\#",
        # words with their period
        rf"(?P<token>{ABBREVIATION})..",
        r"(?P<token>(?i:art|ca|figs?|nos?|op|pp|prop)\.)\ ?\d",
        rf"(?P<token>[A-Za-z])\.\ +(?:{_STARTS})(?=\s)",
        rf"{ABBREVIATION}|(?i:{_TITLES})\.|(?:[A-Za-z]\.)+",
        rf"(?P<token>{W}(?:{W}|[-_](?={W})|[.!?](?={L}))*\.)[,;:]",
        # faces
        r"(?P<token>[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]|:3)[^A-Za-z0-9]",
        r"[\^x=~<>]\.[\^x=~<>]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
        # runs of marks, and marks
        r"[?!]+|-(?i:[lr][rcs]b)-|-{5,}|-{1,4}|\.{3,4}|\*+|(?:\\\*)+|_+|\#+|@+|''?|<<|>>",
        rf"[{_QUOTES}]{{1,2}}",
        rf"[{_SYMBOLS}\".,:;()\[\]{{}}/+\u2013-\u2015\u2026\u20ac\xa2-\xa4\xbc-\xbe\u2153\u2154\x80\x96\x97\u20a0]",
    )
)
_PLAIN = re.compile(r"(?!(?i:cannot|gonna|wanna|gotta|gimme|lemme)\b)[A-Za-z]+(?=\s)")  # no pattern is longer here
_REPLACED = {
    "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "-", '"': "''",
    "\xbd": "1/2", "\xbc": "1/4", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "\xa2": "cents", "\xa3": "#", "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$",
    "\u2013": "--", "\u2014": "--", "\u2015": "--", "\x96": "--", "\x97": "--", "\u2026": "...",
}  # fmt: skip
_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
_PARENTHESES = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0"})
_ASCII_QUOTES = str.maketrans({
    **dict.fromkeys("\u2018\u201b\u2039\x91", "`"), **dict.fromkeys("\u2019\u203a\x92", "'"),
    **dict.fromkeys("\u201c\xab\x93", "``"), **dict.fromkeys("\u201d\xbb\x94", "''"),
})  # fmt: skip


@lru_cache(CACHE_ENTRIES)
def tokenize(caption: str) -> tuple[str, ...]:
    """The tokens of a caption, in lower case and without punctuation. A token such as "2 1/2" has a no-break space."""
    return tuple(token for token in _tokens(caption.replace("\xad", "") + "\n") if token not in PUNCTUATION)


def words(caption: str) -> list[str]:
    """The tokens split at no-break spaces: what the released BLEU, CIDEr and METEOR count as words."""
    return " ".join(tokenize(caption)).split()


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        plain = _PLAIN.match(text, position)
        matches = [plain] if plain else [m for p in _PATTERNS if (m := p.match(text, position))]
        if matches:
            longest = max(matches, key=re.Match.end)  # the first one of equal length
            end = longest.end(longest.lastgroup or 0)
            yield _normalized(text[position:end])
            position = end
        else:
            position += 1


def _normalized(token: str) -> str:
    """The token in lower case, with the released names of brackets, currencies and quotation marks."""
    if token in _REPLACED:
        return _REPLACED[token]
    if len(token) == 1:
        token = token.translate(_BRACKETS)
    if re.fullmatch(rf"[{_QUOTES}]+|{CLITIC}|{NEGATION}", token):
        token = token.translate(_ASCII_QUOTES)
    if re.fullmatch(r"-{2,4}|\.{3,4}", token):
        return "--"
    return token.replace("&amp;", "&").translate(_PARENTHESES).lower()
