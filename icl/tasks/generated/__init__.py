"""Generated tasks: pictures and questions drawn from a seed, byte-identical on every machine."""
