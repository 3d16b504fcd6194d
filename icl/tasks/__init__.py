"""Tasks: where queries and support pools come from, one file a source."""
