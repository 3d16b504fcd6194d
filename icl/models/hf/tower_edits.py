"""Interventions and observers in the vision tower, at the sites `vision` and `vision_mlp`.

The tower reads an image once, before any prompt with it is prefilled, and its features are cached. So what acts in the
tower becomes an edit of the images that it addresses. Its digest is a part of the image's digest: the image has
features of its own then, and its prompt shares no prefix with others.

    prompt with an intervention at sites of the tower    -> prompt without it, whose images have a `TowerEdit`
    images of equal size under equal edits               -> one pass of the tower, with hooks on its layers
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from icl import Edit, Intervention, Site, StateObserver

Acts = Intervention | StateObserver


@dataclass(frozen=True)
class TowerEdit(Edit):
    """What acts on states of the tower while it reads an image. The pixels stay as they are.

    Attributes:
        acts: The intervention or observer.
        places: Its modules, each with its site as it stands in `acts`.
        name: The edit's part of the image's digest.
    """

    acts: Acts
    places: tuple[tuple[nn.Module, Site], ...]
    name: str

    def describe(self) -> str:
        return self.name

    def act(self, site: Site, images: int, module: nn.Module, args: Any, output: Any) -> Any:
        """A forward hook in a pass over `images` equally large images: the output with edited states [..., d]."""
        states = output[0] if isinstance(output, tuple) else output
        x = states.float().flatten(0, -2)
        rows = [i * images // len(x) for i in range(len(x))]
        if not isinstance(self.acts, Intervention):
            self.acts.see(site, x, rows)
            return None
        edited = self.acts.edit(site, x, rows)
        if edited is x:
            return None
        new = edited.view(states.shape).to(states.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def attached(edits: Sequence[Edit], images: int) -> Iterator[None]:
    """Hooks of an image's edits on the tower, for a pass over `images` equally large images under these edits."""
    handles: list[Any] = []
    try:
        # Each before all hooks of the model, which collect hidden states for the projector.
        for edit in reversed([one for one in edits if isinstance(one, TowerEdit)]):
            for module, site in edit.places:
                handles.append(module.register_forward_hook(partial(edit.act, site, images), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
