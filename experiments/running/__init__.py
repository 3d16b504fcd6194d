"""Compute samples in this process: windows of prompts, answers, scores, the record of a session."""
