"""From a config to cells: axes, components, labels, and checks that need no model."""
