"""Arms of a comparison: parsing, default controls, fitted parameters, and facts about strategies."""
