"""Results that others can check: cards of runs, their verification, and copies of runs on a hub."""
