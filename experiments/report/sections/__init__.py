"""The sections of a report: each makes one `Section` from a view of a run, or None if it has nothing to say."""
