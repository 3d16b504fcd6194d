"""Observers: experiment trackers and users' own code that receive a run's scores while it is computed."""
