"""Statistics of paired grids: intervals, tests, corrections and findings.

frames       `arms` (settings of a frame), `sample_rows` (one sample), `subjects` (tasks and shared settings)
one arm      `summary`, `intervals`, `curve_summary`, `variance_components`
two arms     `pairs` (alignment and test), `significance` (exact tests, Holm), `sign_flips` (graded scores), `power`
run level    `run_statistics` (F1, AUC, CIDEr: intervals and pairs), `run_statistic_tests` (test and interval)
many arms    `compare` (a table), `arm_comparisons`, `strategy_verdicts`, `decoding_effects`, `floor_effects`
text         `findings` (sentences), `formatting` (numbers)
"""
