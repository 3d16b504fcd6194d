"""Training of adapters on episodes that the project's own retrievers and composers make (`icl fit`)."""
