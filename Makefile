# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench clean

help:
	@echo "make quickstart   set up $(VENV), run the embedded experiment, print a table and the path of its report"
	@echo "make test         lint, type check, import layers and all tests (installs what they need)"
	@echo "make lint         the checks alone"
	@echo "make bench        the benchmark table (makes an environment with vLLM for its part)"

$(VENV)/ready: pyproject.toml
	@sh environment.sh $(VENV) $(PYTHON) offline
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@sh environment.sh $(VENV) $(PYTHON) offline,encoders,notebooks,dev
	@touch $@

quickstart: $(VENV)/ready
	@$(BIN)/icl run experiments/configs/quickstart.yaml || { status=$$?; test $$status = 130 || exit $$status; }

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/ready-dev lint
	@sh tests/install_browser.sh
	@sh tests/install_slurm.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/decoding/lockstep --ignore tests/decoding/server --ignore tests/icl/models/vllm $(PYTEST_ARGS)
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh -q

bench: $(VENV)/ready-dev
	@$(BIN)/python -m experiments.bench
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh bench

clean:
	rm -rf $(VENV) .venv-vllm .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
