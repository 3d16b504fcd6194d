"""Engines that run strategies on a model: the token loop over sessions, and requests to a server of strategies."""
