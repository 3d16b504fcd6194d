"""Prompt templates as data, one Jinja file each; `prompts.composers.template` says what they may use."""
