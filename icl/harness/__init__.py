"""Tasks of another evaluation harness, read from its files. Its code runs only where the user trusts it."""
