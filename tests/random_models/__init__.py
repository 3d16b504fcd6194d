"""Tiny checkpoints with random weights of real architectures, on which the checks run.

Nothing is downloaded: config, processor and tokenizer are the real classes at a small size. The tokenizer has the 256
bytes and the special tokens, without merges. Weights have unit gain, so that a wrong position, mask or image changes
the logits.
"""
