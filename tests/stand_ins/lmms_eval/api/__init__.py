"""The interface of tasks."""
