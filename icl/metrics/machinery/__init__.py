"""What metrics share: how the answer is found in an output, read, and compared with the accepted ones."""
