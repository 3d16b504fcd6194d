"""The table of architectures as a page of Markdown, with a line for every cell that is not a plain yes."""

import re
from collections.abc import Iterator, Mapping, Sequence

from experiments.architectures.verdicts import Entry, Verdict

COLUMNS = {
    "generate": "loop = generate",
    "batch": "batch = alone",
    "cache": "image cache = none",
    "identity": "VCD of strength 0 = greedy",
    "vllm": "vLLM = loop",
    "lockstep": "VCD in vLLM = loop",
}
NOT_RUN = Verdict("not run")
LONGEST = 300
"""Letters of a reason: other people's exceptions list whole models."""

EXPLAINED = {
    ("paligemma", "cache"): "It puts a start token behind the last image and a line break behind the question, and "
    "all tokens see the whole prompt, so nothing of it can be read ahead. Slower, not wrong; a prompt needs an image.",
    ("idefics2", "cache"): "Each prompt goes through the processor and the tower as a whole. Slower, not wrong.",
    ("idefics2", "vllm"): "vLLM has no Idefics2 of its own; its way through the class of transformers asks the "
    "processor for numbers that it does not give. Use `model: hf`.",
    ("ovis2", "cache"): "It writes `<IMG_ATOM>` for images and names `<image>`. Slower, not wrong.",
    ("ovis2", "vllm"): "As for Idefics2. Use `model: hf`.",
    ("deepseek_vl", "vllm"): "As for Idefics2. Use `model: hf`.",
    ("llava_onevision", "vllm"): "vLLM cuts tiles of every image, transformers of one that stands alone. The backend "
    "compares the ids before anything runs, and refuses.",
    ("qwen3_5", "vllm"): "The engine refuses recurrent layers at its start, since their states were not verified under "
    "preemption and prefix caching. Use `model: hf`.",
    ("qwen3_5_moe", "vllm"): "As for Qwen3.5. Use `model: hf`.",
    ("ernie4_5_vl_moe", "vllm"): "vLLM reads the config of the code that published checkpoints bring along, which has "
    "other names than transformers' own. Use `model: hf`.",
    ("llava_next_video", "vllm"): "vLLM reads videos alone with this class. Use `model: hf`.",
    (
        "gemma3",
        "vllm",
    ): "Let in all the same, vLLM says in every token what transformers says with a plain causal mask, "
    "VCD included; the logits are off by .01 to .03 at a spread of .94.",
    ("lfm2_vl", "vllm"): "As for Qwen3.5: its short convolutions have states too. Use `model: hf`.",
    ("vipllava", "vllm"): "vLLM has one layer of the tower for it, not several. Use `model: hf`.",
    ("cohere2_vision", "vllm"): "vLLM reads Cohere's sliding windows one token wider than transformers does, as it "
    "says the models were trained; with the window of this checkpoint widened by one for transformers, all tokens "
    "agree. Where a prompt is shorter than the window, nothing differs.",
    ("cohere2_vision", "lockstep"): "The same window.",
}
"""(architecture, first column) -> what the reason means."""

HEAD = """# Architectures

Made by one command, which goes on where another stopped:

    python -m experiments.architectures --vllm .venv-vllm/bin/python --table docs/architectures.md

It asks tiny checkpoints with random weights of each architecture: real configs, processors and chat templates, float32
on a CPU, six prompts with one to four images of several sizes, 12 tokens each. A random model has no habits: a wrong
position, mask, image or padding shows in its tokens. So this says that the code is right for the architecture. It
says nothing about any trained model's answers.

- **loop = generate**: greedy tokens of the token loop, each prompt alone, are those of `generate` of transformers, on
  inputs of the processor's own `apply_chat_template`.
- **batch = alone**: together, prompts have the tokens and logits (within .001) that they have alone.
- **image cache = none**: logits with images from the cache are those of the processor on the whole prompt.
- **VCD of strength 0 = greedy**: `vcd` with alpha 0 and no mask says what greedy says, though noise on the images
  changes its second branch.
- **vLLM = loop**: greedy requests to vLLM read the same token ids and say the same tokens.
- **VCD in vLLM = loop**: `vcd`, decoded inside the engine by branches in step, says what the token loop says. A step
  that the loop decides by less than .005 nats may fall otherwise; answers are compared up to there.

A model in no list works where its processor and class follow the conventions in `icl/models/hf/conventions.py`; where
they do not, the error names the one that is broken.
"""


def page(entries: Sequence[Entry], peculiar: Mapping[str, str]) -> str:
    """peculiar: architecture -> what is special about it, in a line."""
    packages = ", ".join(dict.fromkeys(by for half in ("hf", "vllm") for by in _releases(entries, half)))
    rows = [f"| {' | '.join(cell)} |" for cell in _rows(entries, peculiar)]
    exception_lines = [f"- **{name}**, {column}: {why}" for name, column, why in exceptions(entries)]
    parts = [HEAD, f"With {packages}.", "\n".join(rows)]
    if exception_lines:
        parts.append("## Where it is not a plain yes\n\n" + "\n".join(exception_lines))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _releases(entries: Sequence[Entry], half: str) -> Iterator[str]:
    return (entry.releases[half] for entry in entries if half in entry.releases)


def exceptions(entries: Sequence[Entry]) -> Iterator[tuple[str, str, str]]:
    """(architecture, column, reason), a reason once for the columns that share it."""
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
            reasons[_short("; ".join(entry.notes))] = ["not run"]
        for why, columns in reasons.items():
            meaning = EXPLAINED.get((entry.name, firsts.get(why, "")))
            yield entry.name, " and ".join(columns), f"{why.rstrip('.')}. {meaning}" if meaning else why


def _why(entry: Entry, column: str, verdict: Verdict) -> str:
    own = next((note for note in entry.notes if column == "cache" and "image cache" in note), verdict.why)
    return _short(own)


def _rows(entries: Sequence[Entry], peculiar: Mapping[str, str]) -> Iterator[Sequence[str]]:
    yield ("architecture", "class", *COLUMNS.values(), "what is special")
    yield ("---",) * (len(COLUMNS) + 3)
    for entry in entries:
        words = [entry.verdicts.get(column, NOT_RUN).word for column in COLUMNS]
        cells = ["**no**" if word == "no" else word for word in words]
        kind = entry.kind.removesuffix("ForConditionalGeneration") or "–"
        yield (entry.name, kind, *cells, peculiar.get(entry.name, ""))


def _short(text: str) -> str:
    whole = re.sub(r"\s+", " ", text).strip()
    whole = re.sub(r"^(greedy|vcd\([^)]*\)): ", "", whole)  # the arm that failed: the column says it
    whole = re.sub(r"\.\.$", ".", whole)
    whole = re.sub(r"The available parameters.*", "", whole).strip()  # of a whole model, each time in another order
    whole = re.sub(r"(?<![\w.])/(?:[\w.-]+/)+", "", whole)  # folders of the machine that ran it
    return whole if len(whole) <= LONGEST else whole[:LONGEST].rsplit(" ", 1)[0] + " …"
