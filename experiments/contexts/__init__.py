"""From cells and queries to prompts: retrieval, order, transforms and rendering."""
