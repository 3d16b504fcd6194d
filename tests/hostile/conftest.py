from strangers import honest_run, marker, received

__all__ = ["honest_run", "marker", "received"]
