"""Analyses of a run, one file each: `analyze(view) -> DataFrame`, listed and called by `icl analyze`."""
