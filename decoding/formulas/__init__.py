"""Formulas of decoding as pure tensor functions: masks, divergences and samplers."""
