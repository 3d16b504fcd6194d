"""`custom_generate/generate.py` of transformers for a strategy: `model.generate(custom_generate=FOLDER)` runs it.

The file is the strategy's formula, copied from its source, and a runtime. It needs torch and transformers only. The
prompts of the other branches are not made in it: the caller passes the processor's outputs.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from decoding.arms.arm import Arm
from decoding.arms.inspection import probe_branches, probe_prompt
from decoding.base import Strategy
from decoding.export.source_copy import OWN_PACKAGES, CannotCopyError, SourceCopy
from decoding.formulas.sampling import Beam, Sampling
from icl.edits import DiffusionNoise, diffusion_scales
from icl.errors import ConfigError
from icl.registry import describe

RUNTIME = Path(__file__).with_name("custom_generate_runtime.py")
GENERATED = Path("custom_generate/generate.py")
README = "README.md"
IMPORTS = ("import inspect", "from dataclasses import dataclass", "from typing import Any", "import torch")
LAST_IMPORTS = ("from torch import Tensor", "from transformers import GenerationMixin, LogitsProcessor")
RUNTIME_START = "class OtherBranch:"
RUNTIME_NAMES = ("OtherBranch", "Branches", "generate", "STRATEGY", "BRANCHES")
"""Names that the code of a strategy must not define."""


def custom_generate_files(arm: Arm) -> dict[Path, str]:
    """Relative path -> text of the files of the folder.

    Args:
        arm: The strategy with its parameters. The sampler becomes arguments of `generate` in the README.

    Raises:
        ConfigError: The strategy cannot be exported; says why.
    """
    name = str(describe(arm.strategy)["name"])
    if reason := obstacle(arm):
        raise ConfigError(f"{name} cannot be exported for transformers: {reason}.")
    try:
        copy = SourceCopy(objects=dict.fromkeys(RUNTIME_NAMES))
        expression = copy.add_strategy(arm.strategy)
    except CannotCopyError as error:
        raise ConfigError(f"{name} cannot be exported for transformers: {error}.") from error
    return {GENERATED: _generate_py(arm, copy, expression), Path(README): _readme(arm, name)}


def obstacle(arm: Arm) -> str | None:
    """Why a processor of logits cannot do what the arm does, or None."""
    traits = arm.strategy.traits
    needs = traits.needs - {"generate", "logits"}
    reasons = {
        "it scores options and cannot generate text": traits.requires_options,
        "it contrasts early layers, and generate passes the logits of the last layer only": traits.reads_early_exits,
        f"it needs {', '.join(sorted(needs))} of the model, and generate passes logits only": bool(needs),
        "it reads the first token of each option": traits.sums_first_tokens,
        "its scores depend on the random stream of the query": traits.draws_random_numbers,
        "its scores depend on the steps before, and transformers has no place for them": traits.keeps_state,
        "the weights of its branches depend on the prompt, and generate takes none": traits.combines_notes,
        f"it is a vote over {traits.num_samples} answers": traits.num_samples > 1,
        "it searches with beams, which reorder the rows of the prompt and not those of other branches": isinstance(
            arm.sampler, Beam
        ),
        "it acts in one part of a reasoning output, which generate does not follow": arm.acts_in != "both",
        "its logits_processors are transformers' own; remove them and pass them to generate": bool(
            arm.logits_processors
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def branch_count(strategy: Strategy) -> int | None:
    """Number of prompts that a strategy reads, or None if it depends on the demonstrations."""
    counts = {len(probe_branches(strategy, probe_prompt(shots))) for shots in (2, 3)}
    return counts.pop() if len(counts) == 1 else None


def noised_branches(strategy: Strategy) -> dict[int, int]:
    """Number of a branch -> diffusion step of the noise on the processed pixels of its images."""
    return {
        number: edit.step
        for number, branch in enumerate(probe_branches(strategy))
        for image in branch.images
        for edit in image.pixel_value_edits
        if isinstance(edit, DiffusionNoise)
    }


def sampler_arguments(arm: Arm) -> dict[str, Any]:
    """Arguments of `generate` that sample as the arm does."""
    sampler = arm.sampler
    if not isinstance(sampler, Sampling) or sampler.temperature == 0:
        return {"do_sample": False}
    cuts = {"top_k": sampler.top_k, "top_p": sampler.top_p, "min_p": sampler.min_p}
    return {"do_sample": True, "temperature": sampler.temperature, **cuts}


def _generate_py(arm: Arm, copy: SourceCopy, expression: str) -> str:
    cls = type(arm.strategy)
    module = sys.modules.get(cls.__module__)
    paper = inspect.getdoc(module) or inspect.getdoc(cls) or cls.__name__
    author = [] if _is_ours(arm) else ["# The class of the strategy is under the license of its author."]
    header = [
        "# SPDX-License-Identifier: Apache-2.0",
        *author,
        f"# Written by mm-icl (icl export custom_generate) for {json.dumps(arm.config)}",
        '"""' + paper.replace("\\", "\\\\").replace('"""', "'''") + '\n"""',
    ]
    imports = sorted(copy.imports | set(IMPORTS), key=lambda line: (line.startswith("from"), line))
    _, _, runtime = RUNTIME.read_text(encoding="utf-8").partition(RUNTIME_START)
    blocks = [
        "\n".join(header),
        "from __future__ import annotations",
        "\n".join([*imports, *LAST_IMPORTS]),
        *copy.definitions.values(),
        f"STRATEGY = {expression}\nBRANCHES = {branch_count(arm.strategy)}",
        RUNTIME_START + runtime.rstrip().replace("  # type: ignore[misc]", ""),
    ]
    return "\n\n\n".join(blocks) + "\n"


def _readme(arm: Arm, name: str) -> str:
    count = branch_count(arm.strategy)
    summary = (inspect.getdoc(type(arm.strategy)) or "").split("\n")[0]
    negative = "" if count == 1 else "\n    negative=negatives,"
    others = "several" if count is None else str(count - 1)
    license_line = "license: apache-2.0\n" if _is_ours(arm) else ""
    keywords = "".join(f"\n    {key}={value!r}," for key, value in sampler_arguments(arm).items())
    prompts = ""
    if count != 1:
        prompts = (
            f"`negatives` is a list of the processor's outputs for the other prompts ({others}), left-padded, "
            f"in the order of\n`{type(arm.strategy).__name__}.branches` in mm-icl. "
            f"The docstring of `{GENERATED}` names them.\n"
        )
    if count != 1 and "generate" in arm.strategy.traits.needs:
        prompts += "They contain a text that the model under test generates first.\n"
    for number, step in noised_branches(arm.strategy).items():
        scale, spread = diffusion_scales(step)
        prompts += (
            f"\nIn `negatives[{number - 1}]`, the processed pixels of the noised images are\n"
            f"`{scale:.6g} * pixels + {spread:.6g} * torch.randn_like(pixels)` (diffusion step {step}).\n"
        )
    return f"""---
library_name: transformers
{license_line}tags:
  - custom_generate
---

# {name}

{summary}

```python
model.generate(
    **inputs,{negative}
    custom_generate="FOLDER",
    trust_remote_code=True,{keywords}
)
```

{prompts}
Node: `{json.dumps(arm.config)}`

The strategy receives the logits after the processors of the model's generation config (such as `repetition_penalty`)
and before temperature and cuts. Beam search, several sequences per row and assisted decoding are errors.
"""


def _is_ours(arm: Arm) -> bool:
    return type(arm.strategy).__module__.partition(".")[0] in OWN_PACKAGES
