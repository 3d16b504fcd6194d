"""The checks of `icl doctor --bench`, one file each. A new check is a new file with a `CHECK`."""
