"""The backend `vllm`: a vLLM engine in this process, which runs every decoding strategy itself."""
