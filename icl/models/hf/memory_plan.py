"""Whether a checkpoint and its largest request fit on a device, before any weights are read."""

from dataclasses import dataclass, replace

from icl.models.hf.device_memory import DeviceMemory
from icl.models.hf.memory_budgets import measured_budgets
from icl.models.hf.memory_estimate import CONTEXT_BYTES, GIB, RESERVED_FRACTION
from icl.models.hf.memory_needs import MemoryNeeds, gib, quantizations, request_problem
from icl.models.hf.request_size import RequestSize


@dataclass(frozen=True)
class MemoryPlan:
    """What a model needs on a device, in bytes, and what fits.

    Attributes:
        precision: Name of the precision of the weights.
        features: Image features that are cached.
        all_features: Features of all images of the run.
        tower: Peak of a pass of the vision tower. None: the config does not name its sizes, or there is no image.
        free: Bytes after the weights that the toolkit may use. 0 if the weights do not fit.
        need: Size of the smallest device for the weights and one request.
        row: Bytes of a decoding row while rows change.
        rows: Rows of one step together.
        encodings_repeated: Images that are encoded again, because not all features are cached.
        problem: Why one request does not fit and what to do; '' if it fits.
    """

    precision: str
    device: float
    weights: float
    features: float
    all_features: float
    tower: float | None
    prefill: float
    row: float
    free: float
    need: float
    rows: int
    encodings_repeated: float = 0
    problem: str = ""

    def describe(self) -> str:
        """One line of a plan."""
        again = f"about {self.encodings_repeated:,.0f} images encoded again" if self.encodings_repeated >= 1 else ""
        tower = "not estimated" if self.tower is None else f"{self.tower / GIB:.1f}"
        images = f"features {self.features / GIB:.1f}, vision tower {tower}, " if self.all_features else ""
        prefill = f"prefill {self.prefill / GIB:.1f}, {self.row / GIB:.2f} a row while rows change"
        return (
            f"weights {gib(self.weights)} ({self.precision}), {images}{prefill}; "
            f"{self.free / GIB:.1f} of {gib(self.device)} free after loading: "
            + (f"{self.rows:,} rows together" if not self.problem else "does not fit")
            + (f"; {again}" if again and not self.problem else "")
        )


def plan_memory(
    needs: MemoryNeeds,
    request: RequestSize,
    device: float,
    *,
    token_budget: int | None = None,
    max_feature_bytes: int | None = None,
) -> MemoryPlan:
    """What a checkpoint needs on a device of `device` bytes for its largest request.

    Args:
        needs: The needs of the checkpoint.
        request: The largest request.
        device: Size of the device in bytes.
        token_budget: Padded tokens of one prefill, if the user sets it.
        max_feature_bytes: Size of the cache of image features, if the user sets it.
    """
    tokens, weights = max(1, request.prompt_tokens), needs.weights
    budgets = measured_budgets(
        needs.shape,
        [DeviceMemory("cuda", device - CONTEXT_BYTES - weights, device)],
        needs.precision.element_bytes,
        attention=needs.attention,
        feature_bytes=max_feature_bytes,
    ).with_user_settings(token_budget, max_feature_bytes)
    all_features = needs.features(request.images * (request.image_tokens or tokens))
    features = min(budgets.feature_bytes, all_features)
    cached = features / all_features if all_features else 1.0
    plan = MemoryPlan(
        precision=needs.precision.name,
        device=device,
        weights=weights,
        features=features,
        all_features=all_features,
        tower=None if needs.tower is None else needs.tower.largest_bytes(budgets.tower_bytes),
        prefill=needs.prefill(max(1, budgets.prefill_tokens // tokens), tokens),
        row=needs.row(tokens + request.new_tokens),
        free=max(0.0, device * (1 - RESERVED_FRACTION) - CONTEXT_BYTES - weights),
        need=(weights + CONTEXT_BYTES + needs.request(request)) / (1 - RESERVED_FRACTION),
        rows=max(request.branches, budgets.row_tokens // (tokens + request.new_tokens + budgets.row_overhead)),
        encodings_repeated=max(0.0, request.image_uses - request.images) * (1 - cached),
    )
    return replace(plan, problem=_problem(plan, needs, request))


def _problem(plan: MemoryPlan, needs: MemoryNeeds, request: RequestSize) -> str:
    """The sentence of a plan; '' if one request fits."""
    larger = f"a device of at least {gib(plan.need)}"
    if plan.free > 0:
        return request_problem(needs, request, plan.free, larger)
    reserved = gib(CONTEXT_BYTES + RESERVED_FRACTION * plan.device)
    text = (
        f"the weights ({gib(plan.weights)}, {plan.precision}) do not fit into {gib(plan.device)}, of which {reserved} "
        "are for the CUDA context and fragments."
    )
    return f"{text} Use {', '.join([*quantizations(needs), '`device_map: auto` over several devices'])}, or {larger}."
