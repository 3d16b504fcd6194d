"""Generated tasks: images and questions drawn from a seed, byte-identical on every machine."""
