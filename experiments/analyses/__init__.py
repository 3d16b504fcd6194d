"""Analyses of a run: one module each with `analyze(view) -> DataFrame`, which `icl analyze` lists and calls."""
