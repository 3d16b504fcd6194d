"""Tiny checkpoints with random weights, of real architectures: what a check of an architecture runs on.

Nothing is downloaded: config, processor and tokenizer are the real classes at a small size. The tokenizer knows the
256 bytes and the special tokens, without merges. Weights have unit gain, so that the context decides the next token: a
wrong position, mask or image shows in the logits.
"""
