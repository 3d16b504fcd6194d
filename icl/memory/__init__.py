"""Memory of the host and of the device: free bytes, the largest batch that fits, errors, and copies between the two."""
