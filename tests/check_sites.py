"""Checks the sites of interventions on random checkpoints of all architectures.

`python tests/check_sites.py [NAME ...]` prints one line for each architecture: the number of sites of each kind, and
what is wrong.
"""

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def check(name: str, folder: Path) -> str:
    """The line of one architecture."""
    from icl.errors import ICLError
    from icl.models.hf.model import HF
    from lab.architectures.inputs import checkpoint, prompts
    from tests.random_models.site_checks import KINDS, check_sites

    model = HF(path=str(checkpoint(name, folder / name)), dtype="float32", device="cpu")
    try:
        model.load()
        chosen = []
        for prompt in prompts():
            try:
                model.open([prompt])
                chosen.append(prompt)
            except ICLError:  # some architectures take one image
                continue
        counts = ", ".join(f"{kind} {len(model.sites.all(kind))}" for kind in KINDS)
        counts = f"{len(model.sites.layers)} layers: {counts}"
        problems = list(check_sites(model, chosen[:3]))
    except (ICLError, IndexError) as error:  # IndexError: a class that cannot read a chunk of several tokens
        return f"{name:<24} not checked: {str(error)[:100]}"
    finally:
        model.unload()
    return f"{name:<24} {counts}; {'; '.join(problems) or 'conforms'}"


def main(names: list[str]) -> None:
    from tests.random_models.make import ARCHITECTURES

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or ARCHITECTURES:
            print(check(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
