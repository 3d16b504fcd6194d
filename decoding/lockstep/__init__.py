"""Strategies inside vLLM: the branches of a group are ordinary requests that advance in step and choose as one.

Two classes go into an engine, by name, without a fork: a logits processor that applies a strategy to the rows of a
group and makes all of them choose one token, and a scheduler that brings those rows into one batch whatever the
lengths of their prompts. `icl.models.vllm.engine.PLUGIN_ARGS` names them.
"""
