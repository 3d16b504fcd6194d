"""mm-icl: research on in-context learning with multimodal language models.

The names below are the public interface. Each is imported at its first use, so that `import icl` is quick.
"""

import logging
import os
import warnings
from typing import TYPE_CHECKING

from icl.lazy_exports import find_own_packages_first, lazy_exports
from icl.version import __version__ as __version__

find_own_packages_first()

# torch.cuda.is_available() then asks the driver's library NVML. CUDA itself would not work in a forked process
# afterwards, and vLLM forks its engine. Libraries ask at import, so this comes first.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

# tqdm, which libraries import, warns in a notebook without ipywidgets. The bars of the toolkit need no widgets.
warnings.filterwarnings("ignore", message="IProgress not found")

if TYPE_CHECKING:
    from decoding.base import Strategy as Strategy
    from experiments.api import answer as answer
    from experiments.api import compose as compose
    from experiments.api import load_model as load_model
    from experiments.api import load_run as load_run
    from experiments.api import load_task as load_task
    from experiments.api import retrieve as retrieve
    from experiments.api import run as run
    from experiments.launch.base import Launcher as Launcher
    from experiments.observers.base import Observer as Observer
    from icl import edits as edits
    from icl import testing as testing
    from icl.edits.base import Edit as Edit
    from icl.images import Image as Image
    from icl.metrics.base import Metric as Metric
    from icl.metrics.normalize import normalize_text as normalize_text
    from icl.models.base import LogitModel as LogitModel
    from icl.models.base import Model as Model
    from icl.models.interventions import Intervention as Intervention
    from icl.models.interventions import Site as Site
    from icl.models.interventions import StateObserver as StateObserver
    from icl.models.interventions import Where as Where
    from icl.models.interventions import steer as steer
    from icl.registry import component as component
    from icl.registry import parameter as parameter
    from icl.streams import StreamKey as StreamKey
    from icl.streams import stream as stream
    from icl.tasks.base import Pool as Pool
    from icl.tasks.base import Task as Task
    from icl.types import Context as Context
    from icl.types import Demo as Demo
    from icl.types import Example as Example
    from icl.types import Generation as Generation
    from icl.types import Part as Part
    from icl.types import Prompt as Prompt
    from icl.types import Query as Query
    from icl.types import RetrievedExample as RetrievedExample
    from icl.types import Sample as Sample
    from icl.types import Turn as Turn
    from icl.types import Usage as Usage
    from prompts.base import Composer as Composer
    from prompts.base import Orderer as Orderer
    from prompts.base import Transform as Transform
    from retrievers.base import Embedder as Embedder
    from retrievers.base import Reranker as Reranker
    from retrievers.base import Retriever as Retriever

__all__ = [
    "Composer",
    "Context",
    "Demo",
    "Edit",
    "Embedder",
    "Example",
    "Generation",
    "Image",
    "Intervention",
    "Launcher",
    "LogitModel",
    "Metric",
    "Model",
    "Observer",
    "Orderer",
    "Part",
    "Pool",
    "Prompt",
    "Query",
    "Reranker",
    "RetrievedExample",
    "Retriever",
    "Sample",
    "Site",
    "StateObserver",
    "Strategy",
    "StreamKey",
    "Task",
    "Transform",
    "Turn",
    "Usage",
    "Where",
    "answer",
    "component",
    "compose",
    "edits",
    "load_model",
    "load_run",
    "load_task",
    "normalize_text",
    "parameter",
    "retrieve",
    "run",
    "steer",
    "stream",
    "testing",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "icl.types": (
        "Context",
        "Demo",
        "Example",
        "Generation",
        "Part",
        "Prompt",
        "Query",
        "RetrievedExample",
        "Sample",
        "Turn",
        "Usage",
    ),
    "icl.images": ("Image",),
    "icl.streams": ("StreamKey", "stream"),
    "icl.models.interventions": ("Intervention", "Site", "StateObserver", "Where", "steer"),
    "icl.registry": ("component", "parameter"),
    "icl.metrics.normalize": ("normalize_text",),
    "icl.tasks.base": ("Pool", "Task"),
    "icl.models.base": ("LogitModel", "Model"),
    "icl.metrics.base": ("Metric",),
    "icl.edits.base": ("Edit",),
    "retrievers.base": ("Embedder", "Reranker", "Retriever"),
    "prompts.base": ("Composer", "Orderer", "Transform"),
    "decoding.base": ("Strategy",),
    "experiments.launch.base": ("Launcher",),
    "experiments.observers.base": ("Observer",),
    "experiments.api": ("answer", "compose", "load_model", "load_run", "load_task", "retrieve", "run"),
    "icl.edits": (),
    "icl.testing": (),
}

__getattr__, __dir__ = lazy_exports("icl", _MODULES)

logging.getLogger("icl").addHandler(logging.NullHandler())
