"""Does a server read every image of a few-shot prompt, in order, every time?

`icl doctor server URL` sends metamorphic tests to an OpenAI-compatible vision server: no answer has to be right, but
answers have to change, or stay equal, with the prompt. This package imports httpx2, Pillow and itself alone, by
relative imports, so that its folder is also a distribution of its own (`pyproject.toml` beside this file), which
installs in seconds.
"""

from . import pixels, several, protocol, place  # isort: skip - the order of the checks
