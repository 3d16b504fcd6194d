"""Text that many folders read or write: canonical JSON, labels, reasoning blocks of outputs, objects in captions."""
