"""Whether an extracted answer gives an accepted one: by a letter, as a number, by the name of an option, or in words.

An answer stands by what it states. What it denies ("not red"), offers as one of several ("red or blue"), uses to name
its subject ("the red car is blue"), or is unsure of does not count. `icl.metrics.accuracy` lists the rules.
"""

import re
import unicodedata
from functools import lru_cache

from icl import normalize_text, singular
from icl.metrics import canonical_quantities, extract_answer, is_number, normalize_vqa, parse_numbers, stated_number
from icl.metrics.machinery.option_letters import LETTERS, chosen_by_place, is_letter

_HEDGE = (
    r"(?:maybe|perhaps|probably|possibly|likely|most likely|clearly|definitely|certainly|actually|approximately|about"
    r"|around|roughly|exactly|simply|currently|still|now|indeed|mainly|mostly|primarily)"
)
_VERB = (
    r"(?:is|are|was|were|shows?|appears? to be|seems? to be|looks like|looks?|contains|has|depicts?|features?|displays?"
    r"|portrays?|includes?|says|reads)"
)
_OPENING = re.compile(
    rf"^(?:(?:well|so|sure|certainly|of course|ok|okay|yes|here|{_HEDGE})\s+"
    r"|(?:i think|i believe|i see|(?:you|we|i|one) can (?:see|observe|notice|find)|(?:you|we) (?:see|observe)"
    r"|i would say|i'd say|my guess is)(?: that)?\s+"
    r"|(?:based on|in|from|according to) (?:this |given |provided )?"
    r"(?:image|picture|photo|chart|graph|table|diagram|figure|map|scene|document)\s+"
    r"|(?:answer|color|object|animal|it|this|that|there|they|these|those|he|she|one|image|picture|photo)"
    rf"(?: (?:in|of|on|at|shown)\b(?: \w+){{1,4}}?)?(?:'s|'re| {_VERB}| (?:would|may|might|could|must) be)"
    rf"(?: (?:{_HEDGE}|called|named|shown as))*\s+"
    r"|(?:it's|that's|this's|they're|there's|its|thats)\s+)+"
)
_CARRIER = re.compile(r"^(?:name|names|words?|text|number|letters?|title|phrase|message|inscription) ")
_COPULA = re.compile(rf"^(?P<subject>\w+(?:'s)?(?: \w+(?:'s)?){{0,7}}?) {_VERB} (?!not\b)(?P<rest>.+)$")
_COMPARISON = re.compile(
    r"^(?:(?:most|more|less|least|much|slightly|clearly) )*"
    r"(?!other\b|under\b|over\b|after\b|rather\b)\w+(?:er|est)\b(?! \w+s?$)"
)
_PREDICATE = re.compile(r"^\W*(?:it|this|that|the \w+(?: \w+)?) (?:is|was) an? ")
_MODIFIER = re.compile(r" (?:\w+ing|that|which|who|with|near|beside|behind|in|on|at|under|next to|from)(?= )")
_PLACE = re.compile(r"^(?:in|on|at|near|visible|shown|here|there|present|sitting|standing|color|answer|correct)\b")
_NEGATION = re.compile(
    r"(?:\bnot|n't|\bnever|\brather than|\binstead of|\bunlike|\bneither|\bnor|\bexcept|\bother than|\bas opposed to)"
    r"(?! (?:sure|certain|clear|clearly|only|just|confident|possible)\b)(?: (?!but\b)\w+){0,3}? $"
)
_JOINED = re.compile(r"^ (?:(?:or|and|nor) )?$")
_OR = re.compile(r"\s+or\s+(?:maybe |possibly |perhaps )?")
_EITHER = re.compile(r"^(?:either|maybe|perhaps|probably|possibly|likely) ")
_LIST = (
    r"\b(?:are|include|includes)\s+(?:the\s+)?{}(?:,\s+(?:\w+\s+){{0,2}}\w+){{1,6}}"
    r",?\s+(?:and|or)\s+(?:\w+\s+){{0,2}}\w+\W*$"
)
"""A list that begins with an answer: "the brands are X, Y and Z"."""

_BUT = re.compile(r"^(?P<head>.+?)[,;]?\s+but\s+(?:rather\s+|instead\s+)?(?P<tail>.+)$", re.IGNORECASE | re.DOTALL)
_SAYS = re.compile(
    r"\b(?:is|are|was|were|has|have|holds?|says?|reads?|shows?|looks?|seems?|appears?|plays?|playing|'s|'re)\b|'s\b|'re\b",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:not|never|neither|no)\b|n't\b", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"]+)"')
_RELATED = re.compile(r"\b(?:kind|type|form|sort|variant|relative) of $|\b(?:similar|compared|related|close) to $")
_REASON = re.compile(r"\b(?:because|since|given)\b")
_REJECTION = re.compile(r"^no\s*[,.;:—–-]+\s*(?=\w)", re.IGNORECASE)
_IMPRESSION = re.compile(
    r"\b(?:initially|at first|was going to|would have|guessed|assumed|expected|thought|seem(?:s|ed)?"
    r"|look(?:s|ed) like)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(?:[^,;:?!.—–]|[,;:?!.](?!\s|$)|\bNo\.)+[,;:?!.—–]*")
_ADDITION = re.compile(r"there (?:is|are) also\b")
_UNREAL = re.compile(
    r" (?:(?:by|in) contrast |on the other hand |however |instead )?would\b"
    r"| (?:is|are) (?:\w+ly )?(?:wrong|incorrect|ruled out)\b"
)
_APPEARANCE = re.compile(
    r"\b(?:may|might|could|can|would)(?: also)?(?: at first)? "
    r"(?:look|appear|seem|be mistaken|be confused|pass|resemble)\b"
)
_LEADING_CONTRAST = re.compile(
    r"^(?:even )?(?:though|although|while|unlike|instead of|rather than|despite) [^,]+,\s*", re.IGNORECASE
)
_EXPLANATION = re.compile(
    r"\s*\((?!(?:i\.e\.|aka|a\.k\.a\.|also (?:known|called)|or|known as)\b)(?=(?:[^()\s]+\s+){3})[^()]*\)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    rf"{_EXPLANATION.pattern}|(?<=\w),?\s+and not\b[^.;]*|\bwhether\b[^.;]*"
    r"|(?<=\w)[,;]?\s+(?:even though|although|though|albeit|whereas|even if|while (?:it|this|that))\b[^.;]*"
    r"|\bthat (?:one|you|we) (?:might|would|could) expect\b[^.;,]*"
    r"|(?<=\w),\s*(?:but (?:it|this|that) (?:may|might|could)(?: also)? be|maybe|perhaps|possibly)\b[^.;,]*",
    re.IGNORECASE,
)
"""What is said beside the answer: an explanation in parentheses, a concession, a hedged alternative."""

_PARTITIVE = re.compile(r"\b(?:of|to|with|by|from|for|near|behind|beside|after|before) $")
_KIND = re.compile(r"\b(?:kind|type|sort|breed|species|form|style|variety|member|name|color) of $")
_DENIED = re.compile(
    rf"(?:{_NEGATION.pattern[:-1]}"
    r"|\b(?:no|without|lacks?|than|confused with|mistaken for|as if|similar to|resembles?)(?: \w+){0,3} "
    r"|\bminus "
    r"|\b(?:не|no es|non è|não é|nicht|kein\w*|pas)(?: \w+){0,2} )$"
)
_DENIED_AFTER = re.compile(
    r"^ (?:\w+'d\b|(?:\w+ )?would\b|can't|cannot|can not|isn't|is not|aren't|are not|wasn't|was not|nicht|no)\b"
)
_BEFORE_HEAD = (
    r"an? the be been is are was were as of to in on at with by for from into like his her its their my your "
    r"it this that these those one some has have holds? plays? says? reads? shows? wears? rides? eats? drinks? "
    r"uses? it's that's he's she's \w+ing \w+ed \w{2,}[^s\W]s \d+ "
    r"dark light bright pale deep red blue green yellow black white brown orange pink purple "
    r"gray grey large small big little old young new wooden metal ist eine? einen une? una um uma "
    r"el la le les los las der "
    r"die das den nach es est [^\W\d_]*[^\x00-\x7f]\w*"
)
_HEADS = re.compile(rf"(?:^|\b(?:{_BEFORE_HEAD.replace(' ', '|')}) )$", re.IGNORECASE)
"""What stands before a word that names a thing by itself: the dog in "a dog", and not in "a hot dog"."""
_JOINS_CLAUSE = re.compile(r"^\W*(?:(?:and|but|yet|so|then|thus|hence|therefore|however)\b,?\s+)+", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<!\b[A-Z]\.)(?<=[.!?])\s+(?=\S)|\n+")
_LETTER_LABEL = re.compile(r"\b[A-Z]\s*:[^:]*$")
"""The letter of an option before its text: the B of "A: red, B: green"."""

_AFTER_NAME = (
    "in|on|at|of|with|from|to|by|for|as|because|since|that|which|who|and|but|so|best|better|more|most|here|there|is"
    "|are|was|were|fits?|matches|seems|looks"
)
_UNSURE = re.compile(
    r"hard to (?:say|tell)|can(?:'t|not| not) (?:say|tell|determine|be (?:sure|determined))|\bnot (?:sure|certain)\b"
    r"|\bunsure\b|\bdepends on\b|\bunclear\b|\b(?:im|not )possible to\b|\bno idea\b|(?:don't|do not) know"
)
_REFUSES = re.compile(
    rf"{_UNSURE.pattern}|too (?:blurry|dark|small|far)|can(?:'t|not| not) (?:be )?(?:answered|read|seen?|identif)"
    r"|unanswerable|not (?:enough|sufficient)|insufficient|not (?:visible|possible|shown)"
)
_UNANSWERABLE = frozenset({"unanswerable", "unknown", "unsuitable", "can't tell", "not visible", "unsuitable image"})
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_BRITISH = {"grey": "gray", "colour": "color", "centre": "center", "theatre": "theater", "tyre": "tire"}
_BRITISH |= {
    "moustache": "mustache",
    "pyjamas": "pajamas",
    "litre": "liter",
    "doughnut": "donut",
    "aeroplane": "airplane",
}
_BRITISH_WORD = re.compile(rf"\b(?:{'|'.join(_BRITISH)})(?=s?\b)", re.IGNORECASE)
_TITLE = re.compile(r"\b(?:dr|mr|mrs|ms|prof)\.?\s+(?=\w)", re.IGNORECASE)
_INITIALS = re.compile(r"(?<=\b\w)\.\s+(?=\w\.)")
_PLURAL = re.compile(r"(?<![,;:.!?]\s)\b(?!this\b|does\b|always\b|perhaps\b|it's\b)[a-z]{3,}s\b")
_QUOTE = re.compile(r"(?<!\w)'(?=\w)|(?<=[\w.!?])'(?!\w)")
SHORT_QUESTION = 3
"""A question of so many words ("maybe a dog?") is an answer that hesitates."""
MAX_CLAUSES = 12
"""Of a longer answer only so many clauses from either end are read: a description commits to nothing."""


@lru_cache(4096)  # the arms of a run repeat answers
def gives_answer(answer: str, answers: tuple[str, ...], options: tuple[str, ...] = ()) -> bool:
    """Whether an extracted answer gives one of the accepted answers, by the rules 1 and 3 to 7."""
    if _gives(answer, answers, options):
        return True
    texts = answer, *answers, *options
    spelled = tuple(_in_one_spelling(text) for text in texts)
    if spelled == tuple(text.lower() for text in texts):
        return False
    has_letter = _chosen(answer, answers, options) is not None  # in lower case it is none
    return _gives(spelled[0], spelled[1 : 1 + len(answers)], spelled[1 + len(answers) :], reads_clauses=not has_letter)


def _chosen(answer: str, answers: tuple[str, ...], options: tuple[str, ...]) -> str | None:
    """The option that an answer chooses by its place. A capital letter as accepted answer stands for an option."""
    offered = options or (LETTERS if any(map(is_letter, answers)) else ())
    return chosen_by_place(_REASON.split(answer)[0], offered) or chosen_by_place(answer, offered)


def _in_one_spelling(text: str) -> str:
    """The text with quantities, roots and words in one spelling, without titles (Dr.).

    Compounds and initials are one word: north-east, R. J.
    """
    text = re.sub(r"\\sqrt\s*\{(\w+)\}", r"√\1", text)
    return _INITIALS.sub(".", _HYPHEN.sub("", canonical_quantities(_TITLE.sub("", _american(text)))))


def _american(text: str) -> str:
    return _BRITISH_WORD.sub(lambda match: _BRITISH[match[0].lower()], text)


def _gives(answer: str, answers: tuple[str, ...], options: tuple[str, ...], *, reads_clauses: bool = True) -> bool:
    answer = _REJECTION.sub("", _folded(answer))
    answers, options = tuple(map(_folded, answers)), tuple(map(_folded, options))
    if normalize_text(answer) in map(normalize_text, answers):
        return True
    plain = _REMARK.sub("", answer)
    letter = _chosen(plain, answers, options)
    if letter is not None:
        return normalize_text(letter) in map(normalize_text, answers) and not _names_another(plain, letter, options)
    if is_number(answer) and (option := _option_of_number(answer, options)) is not None:
        return normalize_text(option) in map(normalize_text, answers)
    numbers = [value for text in answers if is_number(text) for value in parse_numbers(text)]
    if numbers and stated_number(_without_reason(_stance(_EXPLANATION.sub("", answer)))) in numbers:
        return True
    words = tuple(text for text in answers if not (is_number(text) or is_letter(text)) and text.strip())
    return bool(words) and _names_answer(plain, words, answers, options, reads_clauses=reads_clauses)


@lru_cache(4096)
def _folded(text: str) -> str:
    """Without the accents of Latin letters and single quotes around words, and with minus signs as words."""
    text = re.sub(r"(?<!\S)[éè](?!\S)", "es", _QUOTE.sub("", text)).replace(" & ", " and ")
    text = re.sub(r"(?<!\S)[-−](?=[\d.])", "minus ", text)
    if text.isascii():
        return text
    letters: list[str] = []
    for letter in unicodedata.normalize("NFD", text):
        if not (unicodedata.combining(letter) and letters and letters[-1].isascii()):
            letters.append(letter)
    return unicodedata.normalize("NFC", "".join(letters))


def _option_of_number(number: str, options: tuple[str, ...]) -> str | None:
    """The only option with this number, where each option has one: 135000 of $120,000 and $135,000."""
    values = [parse_numbers(option) for option in options]
    equal = [option for option, value in zip(options, values, strict=True) if value == parse_numbers(number)]
    return equal[0] if len(equal) == 1 and all(len(value) == 1 for value in values) else None


def _without_reason(text: str) -> str:
    """What a text states before "because", if this has a number and denies nothing."""
    head = _REASON.split(text)[0]
    return head if parse_numbers(head) and not _DENIES.search(head) else text


def _names_another(answer: str, letter_option: str, options: tuple[str, ...]) -> bool:
    """Whether an answer with a letter also names an option, and not the letter's."""
    offered = {normalize_vqa(option) for option in options if len(option.strip()) > 1}
    named = _mentions(normalize_vqa(answer), offered)
    return bool(named) and normalize_vqa(letter_option) not in named


def _names_answer(
    answer: str, words: tuple[str, ...], answers: tuple[str, ...], options: tuple[str, ...], *, reads_clauses: bool
) -> bool:
    """By the rules 1, 5 and 6. words: the accepted answers that are not numbers."""
    text, normalized = normalize_vqa(answer), [normal for normal in map(normalize_vqa, words) if normal]
    if text in normalized or _in_any_order(_in_singular(text)) in map(_in_any_order, map(_in_singular, normalized)):
        return True
    accepted, offered = {normalize_vqa(answer) for answer in answers}, {normalize_vqa(option) for option in options}
    if offered - accepted:
        every = offered | accepted
        answer = re.sub(r"(?:^|(?<=[.?!]))[^.?!]*\?\s+(?=\S)", "", answer)
        stance_text = _stance(_LEADING_CONTRAST.sub("", answer))
        stance = normalize_vqa(stance_text)
        last = normalize_vqa(answer.rpartition(":")[2])
        if last in every and not _LETTER_LABEL.search(answer):
            return last in accepted
        named = _mentions(_REASON.split(stance)[0], every) or _mentions(stance, every)
        if len(named) > 1 and reads_clauses:
            named = {_last_commitment(stance_text, every) or ""}
        return bool(named) and named <= accepted
    if _UNANSWERABLE & accepted:
        return _REFUSES.search(text) is not None
    if _UNSURE.search(normalize_vqa(_stance(answer))):
        return False
    stance, singular_forms = _stance(answer), [*map(_in_singular, normalized)]
    return _commits(stance, normalized) or _commits(_in_singular(stance), singular_forms)


def _last_commitment(answer: str, names: set[str]) -> str | None:
    """The one name that the last sentence with names states, by itself or in its last clause; None without one.

    Sentences that deny a name, or name it in passing ("blue would be darker"), are passed over.
    """
    if _UNSURE.search(answer.lower()):
        return None
    for sentence in reversed(_SENTENCES.split(answer)):
        named = _mentions(_normalized(sentence), names)
        if not named:
            continue
        if sentence.rstrip().endswith("?"):
            return None
        clauses = [sentence] if len(named) == 1 else [one for one in _CLAUSE.findall(sentence) if _SAYS.search(one)]
        stated = [_stated_name(_JOINS_CLAUSE.sub("", clause), names) for clause in reversed(clauses)]
        if len(named) > 1 or any(stated):
            return next(filter(None, stated), None)
    return None


def _stated_name(clause: str, names: set[str]) -> str | None:
    """The one name that a clause states: the only one in it, or the only one behind "is" if it is the last one."""
    text, named = _normalized(clause), _mentions(_normalized(clause), names)
    if _DENIES.search(clause):
        return None
    if len(named) > 1:
        last = max(named, key=lambda name: text.rfind(name) + len(name))
        named = {
            name for name in named if re.search(rf"\b(?:is|are|was|were)(?: \w+ly)? {re.escape(name)}(?!\S)", text)
        }
        named = named if named == {last} else set()
    is_stated = any(
        (_begins(text, name) or _states(text, name, clause.lower(), is_first=True)) and _ends_phrase(text, name)
        for name in named
    )
    return named.pop() if is_stated else None


def _ends_phrase(clause: str, name: str) -> bool:
    """Whether a name stands by itself, and not before a noun as in "a blue sign"."""
    return re.search(rf"(?<!\S){re.escape(name)}(?: (?:{_AFTER_NAME})\b|$)", clause) is not None


def _in_any_order(text: str) -> list[str]:
    return sorted(text.split(" and "))


def _stance(answer: str) -> str:
    """What an answer ends up with where a "but" takes something back or goes on to the point."""
    match = _BUT.match(answer)
    if not match:
        return answer
    takes_back = _DENIES.search(match["head"]) or _IMPRESSION.search(match["head"]) or _SAYS.search(match["tail"])
    return match["tail"] if takes_back else match["head"]


def _commits(answer: str, accepted: list[str]) -> bool:
    """By rule 6."""
    answer = _LEADING_CONTRAST.sub("", answer)
    text = _normalized(answer)
    parts = [_EITHER.sub("", part) for part in _OR.split(text)]
    if any(" or " in normal for normal in accepted):
        parts = [text]
    if any(re.search(_LIST.format(re.escape(normal)), answer, re.IGNORECASE) for normal in accepted):
        return False
    if all(any(_begins(part, normal) for normal in accepted) for part in parts):
        return not answer.rstrip().endswith("?") or len(text.split()) <= SHORT_QUESTION
    clauses = _CLAUSE.findall(answer)
    clauses = clauses if len(clauses) <= 2 * MAX_CLAUSES else clauses[:MAX_CLAUSES] + clauses[-MAX_CLAUSES:]
    stated = [clause for clause in clauses if not clause.rstrip().endswith("?")]
    stated = [c for i, c in enumerate(stated) if not _is_listed(c, "".join(stated[i + 1 : i + 2]), is_first=i == 0)]
    quotes = {normalize_vqa(quote) for quote in _QUOTED.findall(answer)}
    if len(quotes) == 1 and quotes <= set(accepted) and not _DENIES.search(answer):
        return True
    return len(parts) == 1 and any(
        _states(_normalized(clause), normal, clause.lower(), is_first=i == 0)
        for i, clause in enumerate(stated)
        for normal in accepted
    )


def _is_listed(clause: str, following: str, *, is_first: bool) -> bool:
    """Whether a clause is one of several things: the "a bus," of "with cars, a bus, and people"."""
    return not is_first and re.match(r"\s*(?:and|or)\b", following) is not None and not _SAYS.search(clause + following)


def _normalized(clause: str) -> str:
    return normalize_vqa(re.sub(r"[:;](?=\s|$)", " ", clause.strip()).rstrip(" ,;:!.—–"))


def _states(clause: str, answer: str, text: str, *, is_first: bool) -> bool:
    """Whether a clause says an answer of its subject, not negated and not as one of several.

    Args:
        clause: The normalized clause.
        answer: A normalized answer.
        text: The clause in lower case, with its articles.
        is_first: Whether no other clause precedes it.
    """
    if _APPEARANCE.search(clause) or (not is_first and _ADDITION.match(clause)):
        return False
    opening = _COPULA.match(clause)
    clause = _modified_head(clause, text)
    start = opening.start("rest") if opening and not _PLACE.match(opening["rest"]) else 0
    if _is_unspaced(answer):
        place = clause.find(answer, start)
        return place >= 0 and clause[max(0, place - 2) : place].find("不") < 0
    is_head = re.search(rf"\b(?:an?|the) {re.escape(answer)}(?!\w)", text) is not None or any(map(str.isdigit, answer))
    if len(answer) < 3 and answer.isascii() and not clause.endswith(f" {answer}"):
        return False
    return any(
        (is_head or _HEADS.search(clause[: match.start()]))
        and not _DENIED.search(clause[: match.start()])
        and not _DENIED_AFTER.match(clause[match.end() :])
        and not re.search(r"\b(?:and|or) $", clause[: match.start()])
        and not (opening and re.search(r"\b(?!\w+ed\b|made\b)\w+ with $", clause[start : match.start()]))
        and (is_first or opening or not _is_of_another(clause[: match.start()]))
        and not re.match(r" (?:and|or)\b", clause[match.end() :])
        for match in re.finditer(rf"(?<!\S){re.escape(answer)}(?!\S)", clause)
        if match.start() >= start
    )


def _modified_head(clause: str, text: str) -> str:
    """A clause "X is a Y ..." up to its Y: what modifies Y ("lying in a cat bed") states nothing.

    Args:
        clause: The normalized clause.
        text: The clause in lower case, with its articles.
    """
    if not _PREDICATE.match(text):
        return clause
    opening = _COPULA.match(clause)
    modifier = _MODIFIER.search(clause, opening.start("rest") + 1) if opening else None
    return clause[: modifier.start()] if modifier else clause


def _is_of_another(before: str) -> bool:
    """Whether what follows describes the thing of an apposition: "a rival of", and not "a kind of"."""
    return _PARTITIVE.search(before) is not None and not _KIND.search(before) and not _SAYS.search(before)


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer as whole words, itself or after its opening."""
    opened, match = _OPENING.sub("", text), _COPULA.match(text)
    candidates = [opened] if opened != text else []
    if match:
        candidates += [_OPENING.sub("", match["rest"]), _CARRIER.sub("", match["rest"])]
    if (
        not match
        or match["subject"] in (answer, f"this {answer}", f"these {answer}")
        or _PLACE.match(match["rest"])
        or _COMPARISON.match(match["rest"])
    ):  # "the red car is blue" is not red, and "the red car is heavier" is
        candidates.append(text.removeprefix("this ").removeprefix("these "))
    if _is_unspaced(answer):
        return any(candidate.startswith(answer) for candidate in candidates)
    return any(f"{candidate} ".startswith(f"{answer} ") for candidate in candidates)


def _is_unspaced(text: str) -> bool:
    """Whether a script has no blanks between words."""
    return any(ord(letter) > 0x2E80 for letter in text)


@lru_cache(4096)
def _in_singular(text: str) -> str:
    """The text with its words in the singular, except at the start of a later clause ("beavers have flat tails")."""
    return _PLURAL.sub(lambda match: singular(match[0]), text)


def _as_words(name: str) -> str:
    """The pattern of a name as whole words, where its script has blanks between words."""
    return re.escape(name) if _is_unspaced(name) else rf"(?<!\S){re.escape(name)}(?!\S)"


def _mentions(text: str, names: set[str]) -> set[str]:
    """The names that a text stands by, as whole words, the longest first and none inside another."""
    longest = sorted((name for name in names if name and name in text), key=lambda name: (-len(name), name))
    if not longest:
        return set()
    mentions: dict[str, bool] = {}  # name -> whether all its mentions are negated
    end, negated = 0, False
    for match in re.finditer("|".join(map(_as_words, longest)), text):
        between = text[end : match.start()]
        is_unreal = _UNREAL.match(text, match.end()) is not None
        is_unreal = is_unreal or between.endswith(("不是", "不", "非"))
        negated = (negated and bool(_JOINED.match(between))) or bool(_NEGATION.search(between)) or is_unreal
        negated = negated or (bool(_RELATED.search(between)) and not all(mentions.values()))
        mentions[match[0]] = mentions.get(match[0], True) and negated
        end = match.end()
    return {name for name, all_negated in mentions.items() if not all_negated}


def contains_answer(output: str, answers: tuple[str, ...], options: tuple[str, ...] = (), rule: str = "auto") -> bool:
    """By all rules but the second. Yes/no questions go through `Lenient`, which applies rule 2 too.

    Args:
        rule: How the answer is found in the output (`icl.metrics.machinery.answer_extraction.extract_answer`).
    """
    answer = extract_answer(output, rule).text
    return bool(answer) and gives_answer(answer, tuple(answers), tuple(options))
