"""All texts of the generated tasks: question templates, names and captions.

The tasks and the training of the embedded model share this file, so that the model has seen each form. The first
question of each tuple is the default of a task. `str.format` fills the braces.
"""

from collections.abc import Sequence

from icl.tasks.generated.world import COLORS, PLACES, SHAPES, SIZES, TEXTURES, ImageFacts, ShapeGroup

# Made-up names. Each is one token of the embedded model.
NONCE: tuple[str, ...] = tuple(
    """
    dax wug blick fep toma zib gop kiv lorp mib nax pim quob rell sut tiv vosh wem yag zorp bim cag doff erk
    fant gik hux jeb kell luft mox nerp olf pell quid rask slib trin urk vint wox yelt zaf brel crup drim flob
    grix hask jorp klem lank merb norf plat quem rusk snib tulv vang wisp yorb zeld bost cril dask frub glim
    hent jisk krub lumo mant nuvo pash qira rovo stip talo vumi woza yiri zeno bako ceru dilo fula gavo hoki
    jumo kani lesi mero nupo pora rimu sola tevi vado wika yopa zalu bexi corv dulm efto garn hilp ixle jund
    kreb lomp
    """.split()  # noqa: SIM905 (a list of words reads better as text)
)

# The word a question uses for each attribute, and the answers it can have. "pair" is the concept (color and shape).
ATTRIBUTE_WORDS = {
    "color": "color",
    "shape": "shape",
    "texture": "texture",
    "size": "size",
    "count": "number",
    "place": "place",
}
VALUES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "count": ("1", "2", "3", "4", "5"),
    "place": PLACES,
}

# Fast binding of names to concepts: without and with the attribute that tells the concepts apart.
BINDING_QUESTIONS = (
    "what is this?",
    "what is this called?",
    "which name is it?",
    "what is the name of this?",
    "what do we call this?",
    "name?",
    "label?",
    "which class is this?",
)
HINTED_BINDING_QUESTIONS = (
    "what is this {attribute} called?",
    "what is the name of this {attribute}?",
    "which name has this {attribute}?",
)

# Which attribute is asked is only in the demonstrations.
ATTRIBUTE_QUESTIONS = ("which one is it?", "what is it?", "answer?", "which is it?", "what do you see?")
ATTRIBUTES = ("color", "shape", "texture", "size")

# The operator of "a ? b" is only in the demonstrations, unless the question tells it.
OPERATORS = ("plus", "minus", "times")
OPERATOR_QUESTIONS = ("what is the result?", "what is the result of the expression?", "result?")
NAMED_OPERATOR_QUESTIONS = ("what is the result of left {operator} right?",)
DIGIT_QUESTIONS = ("what is the {side} digit?",)

# Counting: the shapes of a color, of a shape, of both, or all. Answers are digits.
COUNT_BY_COLOR = (
    "how many {color} shapes are there?",
    "how many {color} shapes are in the picture?",
    "how many {color} shapes does the image contain?",
)
COUNT_BY_SHAPE = (
    "how many {plural} are there?",
    "how many {plural} are in the picture?",
    "how many {plural} does the image contain?",
)
COUNT_BY_BOTH = (
    "how many {color} {plural} are there?",
    "how many {color} {plural} are in the picture?",
    "how many {color} {plural} does the image contain?",
)
COUNT_ALL = (
    "how many shapes are there?",
    "how many shapes are in the picture?",
    "how many shapes does the image contain?",
)
# Only a word: the demonstrations say whether its number or its presence is asked.
BARE_QUESTIONS = ("{word}?",)
PAIR_QUESTION = "{property}: {word}"

# Existence, answered by yes or no. {noun} is "red circle", "circle" or "red shape" and carries its article.
EXISTENCE_QUESTIONS = (
    "is there {noun} in the picture?",
    "is there {noun} in the image?",
    "is there {noun}?",
    "does the picture show {noun}?",
)

# Questions in the wording of the easy-vqa package.
PLAIN_COLOR_QUESTIONS = (
    "what color is the shape?",
    "what is the color of the shape?",
    "what color is the {shape}?",
    "what is the color of the {shape}?",
)
PLAIN_SHAPE_QUESTIONS = (
    "what shape is in the image?",
    "what shape does the image contain?",
    "what shape is present?",
    "what is the {color} shape?",
)
PLAIN_YES_QUESTIONS = (
    "is there a {noun}?",
    "is there a {noun} in the image?",
    "does the image contain a {noun}?",
    "is a {noun} present?",
)
PLAIN_NO_QUESTIONS = (
    "is there not a {noun}?",
    "is there not a {noun} in the image?",
    "does the image not contain a {noun}?",
    "is no {noun} present?",
)
PROPERTY_QUESTIONS = {
    "texture": ("what texture is the shape?", "what is the texture of the shape?"),
    "size": ("what size is the shape?", "what is the size of the shape?"),
    "place": ("where is the shape?", "where in the image is the shape?"),
}

CAPTION_QUESTIONS = ("describe the picture.", "describe the image.", "what does the picture show?")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def value(facts: ImageFacts, attribute: str) -> str | None:
    """The answer that names this attribute of an image. None if it has no such attribute."""
    fact = getattr(facts, attribute)
    return None if fact is None else str(fact)


def plural(shape: str, count: int = 2) -> str:
    """`shape` for one, otherwise its plural."""
    return shape if count == 1 else shape + ("es" if shape.endswith(("s", "ch")) else "s")


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def caption(groups: Sequence[ShapeGroup]) -> str:
    """ "there are two red circles and one blue star in the picture": groups by color, then shape; 8 to 20 words."""
    colors = tuple(COLORS)
    ordered = sorted(groups, key=lambda g: (colors.index(g.color), SHAPES.index(g.shape)))
    parts = [f"{NUMBER_WORDS[g.count]} {g.color} {plural(g.shape, g.count)}" for g in ordered]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"there {'is' if ordered[0].count == 1 else 'are'} {listed} in the picture"
