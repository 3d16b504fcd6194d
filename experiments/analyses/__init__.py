"""Analyses of a run, one file each: `analyse(view) -> DataFrame`, listed and called by `icl analyze`."""
