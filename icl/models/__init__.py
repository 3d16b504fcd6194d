"""Model backends: real ones, and fakes with known right answers."""
