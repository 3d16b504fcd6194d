"""Orderers, transforms, composers and the context budget: from a context to a prompt.

The names below are the public interface. `pieces` writes the named parts of demonstrations and query.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from prompts import pieces as pieces
    from prompts.base import BaseComposer as BaseComposer
    from prompts.base import Composer as Composer
    from prompts.base import Orderer as Orderer
    from prompts.base import Transform as Transform

__all__ = ["BaseComposer", "Composer", "Orderer", "Transform", "pieces"]

_MODULES: dict[str, tuple[str, ...]] = {
    "prompts.base": ("BaseComposer", "Composer", "Orderer", "Transform"),
    "prompts.pieces": (),
}

__getattr__, __dir__ = lazy_exports("prompts", _MODULES)
