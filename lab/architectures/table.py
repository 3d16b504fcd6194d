"""The table of architectures as a Markdown page, with a line for every cell that is not yes."""

import re
from collections.abc import Iterator, Mapping, Sequence

from lab.architectures.verdicts import Entry, Verdict

COLUMNS = {
    "generate": "loop = generate",
    "batch": "batch = alone",
    "cache": "image cache = none",
    "identity": "VCD of strength 0 = greedy",
    "branches": "VCD, CAD = each branch alone",
    "prefix": "shared prefix = none",
    "options": "options = forced answers",
    "attention": "eager = default",
    "sites": "interventions",
    "named": "named tokens",
    "gradients": "gradients",
    "vllm": "vLLM = loop",
    "lockstep": "VCD in vLLM = loop",
}
NOT_RUN = Verdict("not run")
LONGEST = 300
"""The largest length of a reason in characters; some exceptions list whole models."""

EXPLAINED = {
    ("paligemma", "cache"): (
        "The processor adds a start token after the last image and a line break after the question, and attention "
        "is bidirectional over the prompt, so no part can be prefilled ahead. Slower, but correct; a prompt needs "
        "an image."
    ),
    ("idefics2", "cache"): (
        "Each prompt goes through the processor and the vision tower as a whole. Slower, but correct."
    ),
    ("idefics2", "vllm"): (
        "vLLM has no Idefics2 class; its fallback to the class of transformers needs numbers that the processor "
        "does not return. Use `model: hf`."
    ),
    ("ovis2", "cache"): "Features of start and end tokens belong to no image. Slower, but correct.",
    ("ovis2", "vllm"): "As for Idefics2. Use `model: hf`.",
    ("deepseek_vl", "vllm"): "As for Idefics2. Use `model: hf`.",
    ("llava_onevision", "vllm"): (
        "The authors trained with tiles of a single image and one view of each of several, and transformers does the "
        "same. vLLM splits each of several images too. The backend compares the token ids before it runs a prompt, and "
        "refuses; prompts of one image run."
    ),
    ("ernie4_5_vl_moe", "vllm"): (
        "vLLM reads the config of the remote code of published checkpoints, with other names than "
        "transformers. Use `model: hf`."
    ),
    ("llava_next_video", "vllm"): "vLLM supports only videos with this class. Use `model: hf`.",
    ("gemma3", "vllm"): (
        "Without this check, all tokens of vLLM, with VCD too, are those of transformers with a causal mask; the "
        "logits differ by .01 to .03 at a standard deviation of .94."
    ),
    ("vipllava", "vllm"): "vLLM uses one vision layer, not several. Use `model: hf`.",
    ("cohere2_vision", "vllm"): (
        "vLLM uses sliding windows that are one token wider than those of transformers, as in training according "
        "to its code. With a window one token wider in transformers, all tokens agree. Prompts shorter than the "
        "window are not affected."
    ),
    ("cohere2_vision", "lockstep"): "The same window.",
    ("mllama", "cache"): "The image is read by cross-attention, not as tokens of the prompt. Slower, but correct.",
    ("mllama", "vllm"): "vLLM has no Mllama class. Use `model: hf`.",
    ("idefics", "cache"): "As for Mllama.",
    ("idefics", "vllm"): "vLLM has no Idefics class. Use `model: hf`.",
    ("janus", "vllm"): "As for Idefics2. Use `model: hf`.",
    ("minicpmv4_6", "cache"): "The text of an image contains its number in the prompt. Slower, but correct.",
    ("minicpmv4_7", "cache"): "As for MiniCPM-V 4.6.",
    (
        "molmo2",
        "cache",
    ): ("The class lets images attend to each other only if it gets pixel values. Slower, but correct."),
    ("granite4_vision", "cache"): "Its features name the layers that they are added to. Slower, but correct.",
    ("deepseek_vl_hybrid", "vllm"): "As for Idefics2.",
    ("deepseek_ocr2", "vllm"): "As for Idefics2.",
    ("video_llava", "vllm"): "As for Idefics2.",
    ("cohere_compass", "vllm"): "The assertion has no message.",
    ("cosmos3_omni", "vllm"): (
        "vLLM has no class for this type and falls back to that of transformers. The row of Qwen3-VL, which has the "
        "same layers, agrees."
    ),
    ("chameleon", "cache"): "The processor adds a separator after the prompt. Slower, but correct.",
}
"""An explanation of the reason for (architecture, first column)."""

HEAD = """# Architectures

One command makes this page and continues where it stopped:

    python -m lab.architectures --vllm .venv-vllm/bin/python --table docs/architectures.md

It checks tiny checkpoints with random weights of each architecture: real model classes, configs and processors,
float32 on a CPU, six prompts with one to four images of several sizes, 12 tokens each. In a random model, a wrong
position, mask, image or padding changes the tokens. So the table shows whether the code is right for an architecture.
It evaluates no trained model, and its configs are nobody's: all checkpoints share one short chat template of this
project. [Models](models.md) checks published templates and settings.

- **loop = generate**: for each prompt alone, the token loop and `generate` of transformers give the same greedy tokens,
  on inputs of the processor's own `apply_chat_template`.
- **batch = alone**: prompts in one batch have the same tokens and logits (within .001) as alone.
- **image cache = none**: logits with cached images equal logits from the processor on the whole prompt.
- **VCD of strength 0 = greedy**: `vcd` with alpha 0 and no mask equals greedy decoding, although noise on the images
  changes its second branch.
- **VCD, CAD = each branch alone**: we recompute each branch with `generate`, teacher-forced on the answer; every token
  must have the highest combined score. The branches of `cad` contain different numbers of images.
- **shared prefix = none**: two queries with the same demonstrations, prefilled once, have the logits of whole prompts.
- **options = forced answers**: log-probabilities of options of one to three tokens equal `generate`, teacher-forced on
  each option.
- **eager = default**: `attn_implementation: eager` and the default (sdpa) give the same greedy tokens in one batch of
  mixed lengths.
- **interventions**: three checks at every [site](interventions.md) of the decoder. An edit moves the logits. Replacing
  a state by itself changes no bit. Rows with different edits in one batch, in steps or in chunks equal each row alone.
- **named tokens**: exchanging one image changes what the decoder reads at the tokens of this image only, and the tokens
  of a named text decode to it. `attention_scaling`, `knock_out`, `dara`, `aim`, `context_vectors` and `crops` with
  `negatives: attention` need this.
- **gradients**: under an added vector, the loss of an answer equals the token loop's, and its gradient the finite
  difference. The fits of `ltv`, `i2cl` and `dara` need it.
- **vLLM = loop**: greedy requests to vLLM read the same token ids and return the same tokens.
- **VCD in vLLM = loop**: `vcd` in lockstep inside the engine returns the tokens of the token loop. Steps with a margin
  below .005 nats may differ, below .1 nats where vLLM has kernels for bfloat16 alone; answers are compared up to there.
  Where vLLM raises an exception, the page quotes it: use `model: hf`.

A model that is not listed works if its processor and class follow the conventions in `icl/models/hf/conventions.py`.
Otherwise the error names the convention that it breaks.
"""


UNCOVERED = """## Types without a row

The other types of `AutoModelForImageTextToText` in this release of transformers. A checkpoint that breaks a convention
is refused with a sentence before any sample is made."""


def page(entries: Sequence[Entry], peculiar: Mapping[str, str], uncovered: Mapping[str, str] = {}) -> str:
    """The Markdown page.

    Args:
        entries: The rows.
        peculiar: What is special about each architecture, in a line.
        uncovered: Why other types of transformers have no row.
    """
    packages = ", ".join(dict.fromkeys(by for half in ("hf", "vllm") for by in _releases(entries, half)))
    rows = [f"| {' | '.join(cell)} |" for cell in _rows(entries, peculiar)]
    exception_lines = [f"- **{name}**, {column}: {why}" for name, column, why in exceptions(entries)]
    parts = [HEAD, f"With {packages}.", "\n".join(rows)]
    if exception_lines:
        parts.append("## Exceptions\n\n" + "\n".join(exception_lines))
    if uncovered:
        lines = "\n".join(f"- **{name}**: {why}" for name, why in uncovered.items())
        parts.append(f"{UNCOVERED}\n\n{lines}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _releases(entries: Sequence[Entry], half: str) -> Iterator[str]:
    return (entry.releases[half] for entry in entries if half in entry.releases)


def exceptions(entries: Sequence[Entry]) -> Iterator[tuple[str, str, str]]:
    """(architecture, columns, reason) of every cell that is not yes; columns with one reason are joined."""
    for entry in entries:
        reasons: dict[str, list[str]] = {}
        firsts: dict[str, str] = {}
        for column, title in COLUMNS.items():
            verdict = entry.verdicts.get(column, NOT_RUN)
            if verdict.word in ("no", "off"):
                why = _why(entry, column, verdict)
                reasons.setdefault(why, []).append(title)
                firsts.setdefault(why, column)
        if not entry.verdicts:
            reasons[short("; ".join(entry.notes))] = ["not run"]
        for why, columns in reasons.items():
            meaning = EXPLAINED.get((entry.name, firsts.get(why, "")))
            yield entry.name, " and ".join(columns), f"{why.rstrip('.')}. {meaning}" if meaning else why


def _why(entry: Entry, column: str, verdict: Verdict) -> str:
    own = next((note for note in entry.notes if column == "cache" and "image cache" in note), verdict.why)
    return short(own)


def _rows(entries: Sequence[Entry], peculiar: Mapping[str, str]) -> Iterator[Sequence[str]]:
    yield ("architecture", "class", *COLUMNS.values(), "what is special")
    yield ("---",) * (len(COLUMNS) + 3)
    for entry in entries:
        words = [entry.verdicts.get(column, NOT_RUN).word for column in COLUMNS]
        cells = ["**no**" if word == "no" else word for word in words]
        kind = entry.kind.removesuffix("ForConditionalGeneration") or "–"
        yield (entry.name, kind, *cells, peculiar.get(entry.name, ""))


def short(text: str) -> str:
    """A reason in a line, without local folders and lists whose order varies."""
    whole = re.sub(r"\s+", " ", text).strip()
    whole = re.sub(r"^(greedy|vcd\([^)]*\)): ", "", whole)  # the column names the arm
    whole = re.sub(r"\.\.$", ".", whole)
    whole = re.sub(r"The available parameters.*", "", whole).strip()  # a long list in random order
    whole = re.sub(r"(?<![\w.])/(?:[\w.-]+/)+", "", whole)  # local folders
    return whole if len(whole) <= LONGEST else whole[:LONGEST].rsplit(" ", 1)[0] + " …"
