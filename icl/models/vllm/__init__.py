"""The backend `vllm`: a vLLM engine in the process, with every decoding strategy inside it."""
