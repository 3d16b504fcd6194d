"""The public checks detect what they are for."""

import dataclasses
import importlib.util
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage

import icl.testing
from decoding.strategies.vcd import VCD
from icl.edits import Edit
from icl.images import Image
from icl.metrics.accuracy import Strict
from icl.metrics.machinery.judge import Judge
from icl.registry import PACKAGES, build, entries, resolve
from icl.tasks.base import Pool
from icl.testing import check_orderer, check_strategy
from icl.testing.conformance import _EXAMPLES, _request, check_edit, check_metric, check_model, check_task
from icl.testing.sessions import check_sessions
from icl.types import Example
from prompts.orderers.simple_orders import Reversed


def load_toy():
    path = Path(__file__).parents[2] / "decoding" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy_of_conformance", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TOY = load_toy()


def gray(level: int) -> Image:
    return Image.from_pil(PILImage.new("RGB", (4, 4), (level,) * 3), f"gray {level}")


def example(name: str, level: int, answer: str = "red", **more) -> Example:
    return Example(name, (gray(level),), "what?", (answer,), **({"options": ("red", "blue")} | more))


PROMPTS = [_request(example, True).prompt for example in _EXAMPLES[:3]]


@dataclass(frozen=True)
class Good:
    """A task that keeps every promise; the others break one each."""

    @property
    def title(self) -> str:
        return "good"

    @cached_property
    def queries(self):
        return (example("q0", 1), example("q1", 2, "blue"))

    @cached_property
    def support(self):
        return (example("s0", 3), example("s1", 4, "blue"))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.support)

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return 2


def with_queries(*queries: Example) -> Good:
    return type("Bad", (Good,), {"queries": queries})()


def with_support(*support: Example) -> Good:
    return type("Bad", (Good,), {"support": support, "pool_size": len(support)})()


def test_a_good_task_passes():
    check_task(Good())


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (with_queries(), "has no queries"),
        (with_queries(example("q", 1), example("q", 2)), "two queries have the id 'q'"),
        (with_queries(example("q", 1, "green")), r"no accepted answer \(green\) is among the options"),
        (with_queries(example("q", 1, options=("red", "Red."))), "two options read 'red'"),
        (with_queries(example("q", 1, "")), "none empty"),
        (
            with_queries(example("a", 1, meta={"kind": "red"}), example("b", 2, "blue", meta={"kind": "blue"})),
            r"meta\['kind'\] is the gold of every query",
        ),
        (
            with_queries(example("a", 1, meta={"tags": {"x"}}), example("b", 2, "blue")),
            r"meta\['tags'\] of 'a' is a set, which JSON cannot hold. .*sorted",
        ),
        (
            with_queries(example("a", 1, meta={"tags": [{"x": float("nan")}]}), example("b", 2, "blue")),
            r"meta\['tags'\] of 'a' is nan, which JSON cannot hold",
        ),
        (
            with_queries(example("a", 1, meta={"tags": {1: "x"}}), example("b", 2, "blue")),
            r"meta\['tags'\] of 'a' is a mapping with the key 1",
        ),
        (with_queries(example("q-red", 1), example("q-blue", 2, "blue")), "the ids name the gold"),
        (with_support(example("q0", 3)), "the pool of 'q0' holds the query itself"),
        (with_support(example("s", 1)), "'s' in the pool of 'q0' shows the query's own image"),
        (with_support(example("s", 3, "green")), "Bad, 's': no accepted answer"),
        (type("Bad", (Good,), {"pool_size": 5})(), "pool_size is 5, and one pool has 2"),
        (type("Bad", (), {})(), "lacks something of the protocol"),
    ],
)
def test_a_broken_promise_of_a_task_is_named(task, says):
    with pytest.raises(AssertionError, match=says):
        check_task(task)


def test_a_shared_image_may_be_declared():
    task = with_support(example("s", 1))
    type(task).pool_shares_images = True
    check_task(task)


def test_a_task_that_changes_from_instance_to_instance_is_caught():
    counter = iter(range(100))

    class Drifting(Good):
        @cached_property
        def queries(self):
            return (example("q", 1 + next(counter)),)

    with pytest.raises(AssertionError, match="query 'q' is not the same in another instance"):
        check_task(dataclasses.dataclass(frozen=True)(Drifting)())


def test_the_toy_model_keeps_its_sessions():
    check_sessions(TOY.Toy(), PROMPTS)


class Aliased(TOY.ToySession):
    def take(self, rows):
        taken = super().take(rows)
        taken.rows = [self.rows[r] for r in rows.tolist()]
        return taken


class LazyBranches(TOY.ToySession):
    def extend(self, chunks):
        super().extend([chunk[:-1] for chunk in chunks])


class Crossed(TOY.ToySession):
    def advance(self, tokens):
        super().advance(tokens.flip(0))


class Worn(TOY.ToySession):
    def suffix_logprobs(self, suffixes):
        logprobs = super().suffix_logprobs(suffixes)
        self.rows[0].tokens.append(5)
        self.logits = self.model.logits_of(self.rows)
        return logprobs


class Half(TOY.ToySession):
    def __init__(self, model, rows, early=False):
        super().__init__(model, rows, early)
        self.logits = self.logits.to(torch.float16)


class Shallow(TOY.ToySession):
    @property
    def early_exit_logits(self):
        return super().early_exit_logits.flip(1)


class Behind(TOY.ToySession):
    def suffix_early_exit_logits(self, suffixes):
        return [[logits.flip(1) for logits in row] for row in super().suffix_early_exit_logits(suffixes)]


class Trimmed(TOY.ToySession):
    def trim(self):
        self.rows.reverse()


@pytest.mark.parametrize(
    ("session", "says"),
    [
        (Aliased, "a session whose rows were taken and advanced, and a fresh one differ"),
        (LazyBranches, r"extend\(chunk\) and advance, token by token differ"),
        (Crossed, "tokens fed to a row in a batch and alone differ|token by token differ"),
        (Worn, "before and after suffix_logprobs differ"),
        (Half, "logits are torch.float16, not float32"),
        (Trimmed, "rows advanced after join and trim, and before differ"),
        (Shallow, "early layers of a prompt in a batch and alone differ"),
        (Behind, "the first entry of suffix_early_exit_logits and the session's own early_exit_logits differ"),
    ],
)
def test_a_session_that_mixes_its_rows_is_caught(session, says, monkeypatch):
    monkeypatch.setattr(TOY, "ToySession", session)
    with pytest.raises(AssertionError, match=says):
        check_sessions(TOY.Toy(), PROMPTS)


def test_a_model_whose_batch_changes_its_rows_is_caught():
    class Padded(TOY.Toy):
        def open(self, prompts, *, early_exits=False):
            session = super().open(prompts, early_exits=early_exits)
            session.logits = session.logits + 0.1 * (len(prompts) - 1)
            return session

    with pytest.raises(AssertionError, match=r"a prompt in a batch and alone differ by up to 0\.2"):
        check_sessions(Padded(), PROMPTS)


def test_a_real_architecture_keeps_the_promises_of_a_model(tmp_path):
    import tiny_models

    from icl.models.hf.model import HF

    check_model(HF(path=str(tiny_models.save("idefics3", tmp_path))))


@pytest.mark.parametrize("kind", PACKAGES)
def test_the_check_of_every_kind_takes_a_class(kind):
    class Needs:
        def __init__(self, parameter):
            pass

    with pytest.raises(AssertionError, match=r"Needs cannot be made without parameters .* Pass Needs\(...\)"):
        getattr(icl.testing, f"check_{kind}")(Needs)


def test_a_class_is_checked_with_its_default_parameters():
    assert check_strategy(VCD) == check_strategy(VCD())
    check_metric(Strict)
    check_orderer(Reversed)
    with pytest.raises(AssertionError, match=r"Judge cannot be made without parameters .*judge.*Pass Judge\(...\)"):
        check_metric(Judge)


@pytest.mark.parametrize("name", entries("edit"))
def test_every_edit_keeps_its_promises(name):
    check_edit(build("edit", name))


class Counter:
    calls = 0


@dataclass(frozen=True)
class Forgetful(Edit):
    def describe(self):
        Counter.calls += 1
        return f"call {Counter.calls}"


@dataclass(frozen=True)
class Restless(Edit):
    def apply_to_image(self, image):
        Counter.calls += 1
        return image.point(lambda level: (level + Counter.calls) % 256)


@dataclass(frozen=True)
class Redrawn(Edit):
    stream: int = 0

    def bind(self, key, place):
        Counter.calls += 1
        return replace(self, stream=Counter.calls)


@dataclass(frozen=True)
class Halved(Edit):
    def apply_to_image(self, image):
        return image.resize((image.width // 2, image.height // 2))


@dataclass(frozen=True)
class Painting(Edit):
    def apply_to_image(self, image):
        image.paste((0, 0, 0), (0, 0, 1, 1))
        return image


@dataclass(frozen=True)
class Silent(Edit):
    def apply_to_pixel_values(self, pixels):
        return pixels + 1


@dataclass(frozen=True)
class Gray(Edit):
    def apply_to_image(self, image):
        return image.convert("L")


@dataclass(frozen=True)
class NoEdit:
    def apply_to_image(self, image):
        return image


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Forgetful(), "in two ways"),
        (Restless(), "other pixels in the second call"),
        (Redrawn(), "something else for the same prompt"),
        (Halved(), "came out as 6 x 4. Declare keeps_size = False"),
        (Painting(), "changed the image that it was given"),
        (Silent(), "declare applies_to_pixel_values = True"),
        (Gray(), "returned mode L, not RGB"),
        (NoEdit(), "does not extend icl.edits.Edit"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Edit) else "",
)
def test_a_violation_is_reported(edit, says):
    with pytest.raises(AssertionError, match=says):
        check_edit(edit)


def test_edits_of_ones_own_with_other_code_have_other_digests(tmp_path: Path):
    code = (
        "from dataclasses import dataclass\nfrom icl.edits import Edit\n\n@dataclass(frozen=True)\nclass Mine(Edit):\n"
    )
    descriptions = []
    for folder, body in (("a", "    by: int = 1\n"), ("b", "    by: int = 1  # more\n"), ("c", "    by: int = 1\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(code + body)
        descriptions.append(
            Image.from_path("x").edit(resolve("edit", f"{tmp_path / folder / 'mine.py'}:Mine")()).edits[0].describe()
        )
    assert descriptions[0] == descriptions[2] != descriptions[1]
