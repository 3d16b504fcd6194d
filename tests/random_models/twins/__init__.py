"""Twins of published models: everything of a checkpoint but its weights, at a small size.

`python -m tests.random_models.twins qwen3_5 FOLDER` writes a checkpoint from `models/qwen3_5.yaml`.
"""
