"""Decoding: strategies as pure functions over branch logits, the engines that run them, and their controls."""

from decoding.base import Strategy as Strategy
