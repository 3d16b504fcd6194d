"""Model backends: real ones, and fakes whose right answers are known."""
