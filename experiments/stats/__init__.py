"""Statistics of paired grids: intervals, tests, corrections and findings.

frames       `arms` (settings of a frame), `sample_rows` (one sample), `subjects` (tasks and shared settings)
one arm      `summary`, `intervals`, `curve_summary`
two arms     `pairs` (alignment), `paired_proportions` (right/wrong), `sign_flips` (graded), `significance`, `power`
run level    `run_statistics` (F1, AUC, CIDEr: intervals, pairs and tests)
many arms    `compare` (a table), `arm_comparisons`, `strategy_verdicts`, `decoding_effects`, `floor_effects`
text         `findings` (sentences), `formatting` (numbers)
"""
