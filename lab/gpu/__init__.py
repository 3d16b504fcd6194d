"""`python -m lab.gpu`: measures on this machine what the toolkit promises, with random weights of 8B shapes."""
