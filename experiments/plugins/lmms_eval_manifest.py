"""The models that this package adds to lmms-eval (entry points `lmms_eval.models`). Imports nothing heavy.

lmms-eval calls `manifests` when it lists its models, and imports the class only if it is chosen.
"""

from typing import Any


def manifests() -> list[Any]:
    """lmms-eval's `ModelManifest` of the model `mm_icl`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest("mm_icl", chat_class_path="experiments.plugins.lmms_eval_model.MMICL")]
