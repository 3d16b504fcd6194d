"""The checks of `python -m lab.gpu`, one file each. A new check is a new file with a `CHECK`."""
