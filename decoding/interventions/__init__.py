"""Steering methods: task vectors and their relatives, one file each. `base` says how a new one is written."""
