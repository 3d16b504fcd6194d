"""Statistics of paired grids: intervals, tests, corrections and findings.

frames       `arms` (settings of a frame), `sample_rows` (one sample)
one arm      `summary`, `intervals`
two arms     `pairs` (alignment), `sign_flips` (right/wrong and graded scores), `significance` (corrections, power)
run level    `run_level_frames` (F1, AUC, CIDEr), `run_statistics` (their intervals), `exchanges` (the test of two arms)
many arms    `compare` (a table), `arm_comparisons`, `strategy_verdicts`, `decoding_effects`
text         `findings` (sentences), `answer_forms`, `formatting` (numbers)
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
