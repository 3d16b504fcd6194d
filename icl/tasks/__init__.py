"""Tasks: sources of queries and support pools, one file each."""
