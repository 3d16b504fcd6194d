"""Checks of twins of published models, and the table of models in the documentation."""
