"""The leaderboard: decoding methods of several runs, each next to its controls, on one page."""
