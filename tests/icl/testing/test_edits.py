"""Every shipped edit passes the public check, and each violation is reported."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from icl.edits import Edit
from icl.images import Image
from icl.registry import build, entries, resolve
from icl.testing.edits import check_edit


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
