"""Comparisons that end when they are decided: their plan, their looks, and what is still to compute."""
