"""Training of the small model: SmolLM2-135M-Instruct behind EfficientNet-Lite0 features of real drawings."""
