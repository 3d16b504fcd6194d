"""The page of what fits on a GPU: `python tests/memory_page.py` writes `docs/memory.md` from the formulas."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from published_configs import QWEN, qwen  # noqa: E402

from icl.models.hf.memory import (  # noqa: E402
    CONTEXT_BYTES,
    GIB,
    RESERVED_FRACTION,
    DeviceMemory,
    MemoryNeeds,
    ModelShape,
    RequestSize,
    TowerPass,
    WeightPrecision,
    decode_copies,
    kv_bytes_per_token,
    logits_bytes,
    measured_budgets,
    model_shape,
    plan_memory,
    prefill_bytes,
    row_bytes,
    tower_sizes,
    weights_bytes,
)

PAGE = ROOT / "docs" / "memory.md"
QUERY_TOKENS, SHOT_TOKENS, IMAGE_TOKENS, NEW_TOKENS, BRANCHES = 400, 350, 300, 32, 2
PATCHES = 4 * IMAGE_TOKENS
"""Qwen2.5-VL merges four patches into a token."""

SHOTS, DEVICES = (0, 8, 32), (24, 48, 80)
PRECISIONS = {
    "bfloat16": WeightPrecision(),
    "int8": WeightPrecision(quantize="int8"),
    "nf4": WeightPrecision(quantize="nf4"),
}

HEAD = f"""# Memory

What a Qwen2.5-VL checkpoint needs on a GPU, and how many rows it decodes together. `python tests/memory_page.py`
writes this page from `icl/models/hf/memory.py`, which has the formulas.
`icl plan FILE --device 24GB` does the same for your experiment, with its own prompts and images.

A row is one branch of one query. The query has {QUERY_TOKENS} tokens, each demonstration {SHOT_TOKENS}, of which
its image has {IMAGE_TOKENS}. An answer has {NEW_TOKENS} tokens, and a request {BRANCHES} branches, such as `vcd`.
Attention is `sdpa`. Cards have binary units: 24 GB is 24 GiB. *no* means that the weights or one request do not fit.
The last column is the smallest device for one request.
"""


def page() -> str:
    """The text of the page."""
    shapes = {name: model_shape(qwen(name)) for name in QWEN}
    towers = {name: _tower(name, shape) for name, shape in shapes.items()}
    tables = [_table(name, shape, towers[name]) for name, shape in shapes.items()]
    return "\n".join([HEAD, *tables, "\n".join(_arithmetic(shapes["7B"], towers["7B"]))])


def _tower(name: str, shape: ModelShape) -> TowerPass:
    sizes = tower_sizes(qwen(name))
    assert sizes is not None
    return replace(sizes, patches=PATCHES, tokens=IMAGE_TOKENS, token_values=shape.hidden)


def _table(name: str, shape: ModelShape, tower: TowerPass) -> str:
    weights = ", ".join(
        f"{precision} {weights_bytes(shape, kind.quantize) / GIB:.1f} GiB" for precision, kind in PRECISIONS.items()
    )
    lines = [
        f"## Qwen2.5-VL-{name}\n",
        f"{shape.parameters:,} parameters. Weights: {weights}. KV cache: {kv_bytes_per_token(shape) / 1024:.0f} KiB a "
        f"token. Vision tower: {tower.peak_bytes(1) / 2**20:.0f} MiB for an image.\n",
        f"| shots | tokens | GiB a row | precision | {' | '.join(f'rows on {size} GB' for size in DEVICES)} | "
        "smallest device, GiB |",
        "|---|---|---|---|" + "---|" * (len(DEVICES) + 1),
    ]
    for shots in SHOTS:
        for precision, kind in PRECISIONS.items():
            tokens = QUERY_TOKENS + SHOT_TOKENS * shots
            request = RequestSize(
                tokens, NEW_TOKENS, BRANCHES, shots, image_tokens=IMAGE_TOKENS, images=1e9, image_uses=1e9
            )
            plans = [plan_memory(MemoryNeeds(shape, kind, tower=tower), request, size * GIB) for size in DEVICES]
            rows = " | ".join("no" if plan.problem else f"{plan.rows:,}" for plan in plans)
            row, need = plans[0].row / GIB, plans[0].need / GIB
            lines.append(f"| {shots} | {tokens:,} | {row:.2f} | {precision} | {rows} | {need:.1f} |")
    return "\n".join(lines) + "\n"


def _arithmetic(shape: ModelShape, tower: TowerPass) -> Iterator[str]:
    """The steps of one cell of the tables, in GiB."""
    device, shots = 24 * GIB, 8
    tokens = QUERY_TOKENS + SHOT_TOKENS * shots
    weights = weights_bytes(shape)
    usable = device * (1 - RESERVED_FRACTION) - CONTEXT_BYTES - weights
    budgets = measured_budgets(shape, [DeviceMemory("cuda", device - CONTEXT_BYTES - weights, device)], 2)
    peak = prefill_bytes(shape, 1, budgets.prefill_tokens)
    passing = max(peak, usable / 8)
    width = tokens + NEW_TOKENS
    token, copies = kv_bytes_per_token(shape), decode_copies(shape)
    rows = (usable - budgets.feature_bytes - passing) / row_bytes(shape, width, 2, copies)
    t, mask = budgets.prefill_tokens, budgets.prefill_tokens**2
    image = MemoryNeeds(shape).features(IMAGE_TOKENS)
    yield f"## The arithmetic: Qwen2.5-VL-7B in bfloat16 on 24 GB, {shots} shots\n"
    yield "| step | formula | GiB |"
    yield "|---|---|---|"
    yield f"| device | | {device / GIB:.2f} |"
    yield f"| reserve for fragments | 5 % | −{RESERVED_FRACTION * device / GIB:.2f} |"
    yield f"| CUDA context and kernels | | −{CONTEXT_BYTES / GIB:.2f} |"
    yield (f"| weights and buffers | ({shape.parameters:,} + {shape.buffers}) × 2 bytes | −{weights / GIB:.2f} |")
    yield f"| usable | | {usable / GIB:.2f} |"
    yield (
        f"| image features | usable / 8: {budgets.feature_bytes / image:.0f} images of {IMAGE_TOKENS} × {shape.hidden} "
        f"× 2 bytes | −{budgets.feature_bytes / GIB:.2f} |"
    )
    sizes, patches = tower, tower.patches
    yield (
        f"| vision tower | in the memory of one forward pass, before the prefill. Of an image: t P b + 2 t d 4 + t H "
        f"(5 b + 24) = {patches * sizes.patch_values * 2 / GIB:.3f} + "
        f"{2 * patches * sizes.hidden / sizes.heads * 4 / GIB:.3f} + {patches * sizes.hidden * 34 / GIB:.3f} "
        f"| ({tower.peak_bytes(1) / GIB:.3f}) |"
    )
    yield (
        f"| one forward pass | max(prefill of {t:,} tokens, usable / 8); prefill: 2 t d b + t b (4 H + 3 I) + mask = "
        f"{2 * t * shape.head_dim * 2 / GIB:.2f} + {t * 2 * (4 * shape.hidden + 3 * shape.inner) / GIB:.2f} + "
        f"{mask / GIB:.2f} | −{passing / GIB:.2f} |"
    )
    yield (
        f"| a row | {width:,} tokens × {token / 1024:.0f} KiB × c + V × 14 bytes, c = 1 + 1 / L = 1 + 1 / "
        f"{shape.layers} = {copies:.3f}: {width * token * copies / GIB:.3f} + "
        f"{logits_bytes(shape) / GIB:.3f} | {row_bytes(shape, width, 2, copies) / GIB:.3f} |"
    )
    yield f"| rows together | (usable − features − forward pass) / row | **{int(rows)}** |"
    yield ""
    yield (
        "Prefills and decoding steps of real models on a CPU allocate what these formulas say\n"
        "(`tests/icl/models/hf/test_memory.py`), and so do towers of CLIP, SigLIP and Qwen2.5-VL within 10 %.\n"
        "For the published sizes of towers the estimate is .93 to 1.08 of that\n"
        "(LLaVA-1.5, Idefics3, InternVL3, Gemma 3, Qwen2.5-VL), and .85 to 1.18 for Qwen3-VL. Workspaces of kernels\n"
        "come on top: the workspace of cuBLAS, and one dequantized layer of bitsandbytes (H × I × 2 bytes). The\n"
        "reserve covers them."
    )
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
