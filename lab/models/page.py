"""The page of models: a row for each twin, and a sentence for each cell that is not yes."""

from collections.abc import Iterator, Sequence

from lab.architectures.table import short
from lab.architectures.verdicts import Entry, Verdict
from tests.random_models.twins.twin import Twin, twins

COLUMNS = {
    "prompts": "prompts",
    "answers": "answers",
    "options": "options",
    "interleaved": "interleaved",
    "quantized": "nf4",
    "interventions": "interventions",
    "ids": "ids in vLLM",
    "vllm": "vLLM",
    "lockstep": "VCD in vLLM",
}
NEEDED = ("prompts", "answers", "options")
"""The columns without which a model does not run as its authors run it."""
NOT_RUN = Verdict("not run")

HEAD = """# Models

This page says whether a model runs here as its authors run it. One command writes it, and resumes if interrupted:

    python -m lab.models --vllm .venv-vllm/bin/python --page docs/models.md

The checks did not use the published weights. Each row is checked on a **twin**: a checkpoint with random weights and
the other files that the authors publish. `python -m tests.random_models.twins NAME FOLDER` writes one in seconds,
from a text file in `tests/random_models/twins/models/`.

- **Real**: the classes of transformers; the pattern of layers, tied weights, rotary embeddings; sizes of patches and
  tiles, limits on the pixels and tokens of an image; the names of special tokens, and the tokens that end an answer;
  penalties and temperatures of the generation config. They come from the config classes of transformers, model cards
  and public copies of the published files. They were not compared with a downloaded checkpoint.
- **Published, where the column *template* says so**: the chat template. These files are not part of this repository;
  `PUBLISHED_TEMPLATES` names their folder. Other twins have a template of a few lines with the same structure.
- **Not real**: weights, widths, the number of layers, ids of tokens, and the tokenizer, which has bytes and special
  tokens but no merges. Gemma 3n and Llama 3.2 Vision read smaller images here, because full-size ones take minutes on a
  CPU.

[Architectures](architectures.md) checks more classes in more ways, with one template of this project.

A model that is not listed works if its processor and class follow the conventions in `icl/models/hf/conventions.py`.
Otherwise the error names the convention that it breaks.

- **prompts**: the token ids of prompts with two, one and no demonstrations, as turns, equal those of the processor's
  own `apply_chat_template`.
- **answers**: greedy tokens equal those of `generate` with the checkpoint's generation config: its stop tokens, and its
  repetition penalty as `decoding.logits_processors`.
- **options**: log-probabilities of options equal `generate`, forced along each option.
- **interleaved**: demonstrations in one user turn keep their places.
- **nf4**: the same as *answers*, with weights in 4 bits (`quantize: nf4`).
- **interventions**: an edit at each site of the residual stream and of attention heads takes effect, in batches and in
  decoding steps; replacing an image changes only its own tokens.
- **ids in vLLM**: vLLM's processor, run without the engine, gives the same token ids as `hf`.
- **vLLM**, **VCD in vLLM**: token ids and tokens of greedy decoding and of `vcd` equal those of `hf`, in vLLM on a CPU.

The verdict is **no** if one of the first three checks fails, or if the model cannot be opened; the reason is below. It
is **caveat** if the model has a line below the table, else **yes**. A cell is *not run* if the model cannot be opened,
or if this check has not run yet.
"""


def write_page(entries: Sequence[Entry]) -> str:
    """The Markdown page."""
    packages = ", ".join(
        dict.fromkeys(entry.releases[half] for half in ("hf", "vllm") for entry in entries if half in entry.releases)
    )
    rows = [f"| {' | '.join(cells)} |" for cells in _rows(entries)]
    lines = [f"- **{entry.name}**: {line}" for entry in entries for line in caveats(entry)]
    parts = [HEAD, f"With {packages}.", "\n".join(rows), "## Caveats", "\n".join(lines)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def verdict(entry: Entry) -> str:
    """'yes', 'caveat' or 'no': whether the model runs as its authors run it."""
    if any(entry.verdicts.get(column, NOT_RUN).word != "yes" for column in NEEDED):
        return "no"
    return "caveat" if list(caveats(entry)) else "yes"


def caveats(entry: Entry) -> Iterator[str]:
    """A sentence for each note of the backend, and for each cell that is not yes; equal reasons are joined."""
    if not entry.verdicts:
        yield _line("; ".join(entry.notes))
        return
    reasons: dict[str, list[str]] = {}
    for column, title in COLUMNS.items():
        own = entry.verdicts.get(column)
        if own is not None and own.word != "yes":
            reasons.setdefault(_line(own.why), []).append(title)
    for note in entry.notes:
        yield _line(note)
    for why, columns in reasons.items():
        yield f"{', '.join(columns)}: {why}"
    if reasons and (cause := twins()[entry.name].cause):
        yield cause


def _rows(entries: Sequence[Entry]) -> Iterator[Sequence[str]]:
    yield ("twin", "of", "template", "as its authors run it", *COLUMNS.values())
    yield ("---",) * (len(COLUMNS) + 4)
    for entry in entries:
        twin = twins()[entry.name]
        words = [entry.verdicts.get(column, NOT_RUN).word for column in COLUMNS]
        cells = ["**no**" if word == "no" else word for word in words]
        yield (entry.name, twin.model, _template(twin), f"**{verdict(entry)}**", *cells)


def _template(twin: Twin) -> str:
    if not twin.shape:
        return "none"
    return "published" if twin.published_template else "own"


def _line(text: str) -> str:
    return short(text).replace("|", "\\|")
