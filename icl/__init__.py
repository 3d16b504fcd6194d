"""mm-icl: research on in-context learning with multimodal language models.

`__all__` of `__init__.pyi` lists the public names. Each is imported at its first use, so that `import icl` is quick.
"""

import logging
import os
import warnings

from icl.lazy_exports import find_own_packages_first, lazy_exports
from icl.version import __version__ as __version__

find_own_packages_first()

# torch.cuda.is_available() then asks the driver's library NVML. CUDA itself would not work in a forked process
# afterwards, and vLLM forks its engine. Libraries ask at import, so this comes first.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

# tqdm, which libraries import, warns in a notebook without ipywidgets. The bars of the toolkit need no widgets.
warnings.filterwarnings("ignore", message="IProgress not found")
# transformers hands `max_pixels` of a processor to itself at each image, and warns of it. The setting has its effect.
warnings.filterwarnings("ignore", message="Passing `min_pixels` and `max_pixels` to a processor call")

__getattr__, __dir__, __all__ = lazy_exports(__name__)

logging.getLogger("icl").addHandler(logging.NullHandler())
