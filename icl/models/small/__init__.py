"""The small model, SmolLM2-135M-Instruct behind EfficientNet-Lite0, assembled from packages and learned weights."""
