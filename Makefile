# `make run`: from a fresh clone to a scored file. `make test`: every check. `make help`: the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# Where `make run` keeps what it makes.
OUT ?= artifacts
# The user's own files, in place of simulated ones: make run TRAIN=path/train.csv TEST=path/test.csv
TRAIN ?=
TEST ?=
# PyTorch's builds without CUDA. `make setup GPU=1` takes the CUDA build of PyPI instead.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU ?=
# What torch's CUDA build wants; the lock leaves it out.
CUDA_PACKAGES := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: help setup run test check format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv from the lock

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"error: Python {v[0]}.{v[1]}; expected 3.11 to 3.13; fix: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
ifeq ($(GPU),)
	$(BIN)/pip install --quiet --disable-pip-version-check --retries 1 --no-deps --extra-index-url $(TORCH_INDEX) \
		"$$(grep -o '^torch==[^ ]*' requirements.lock)"
else
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o '^torch==[^ ]*' requirements.lock)"
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirements requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
ifneq ($(GPU),)
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python onnxruntime
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps onnxruntime-gpu=="$$(sed -n 's/^onnxruntime==\([^ ]*\).*/\1/p' requirements.lock)"
endif
	touch $@

run: setup ## everything once: data, training, evaluation, export, Triton, a scored file, a summary
ifeq ($(TRAIN),)
	$(BIN)/reentry simulate $(OUT)/data/train.csv --tracks 90 --seed 1
endif
ifeq ($(TEST),)
	$(BIN)/reentry simulate $(OUT)/data/test.csv --tracks 10 --seed 2 --no-labels
endif
	$(BIN)/reentry train $(or $(TRAIN),$(OUT)/data/train.csv) --out $(OUT)/train
	$(BIN)/reentry evaluate $(OUT)/train/model.ckpt $(or $(TRAIN),$(OUT)/data/train.csv) --out $(OUT)/evaluation
	$(BIN)/reentry export $(OUT)/train/model.ckpt --repository model_repository
	$(BIN)/reentry predict $(or $(TEST),$(OUT)/data/test.csv) --start-server --out $(OUT)/predictions
	@echo
	@cat $(OUT)/evaluation/evaluation.md
	@echo "plots: $(OUT)/evaluation/*.png   scored tracks: $(OUT)/predictions/"

check: setup ## linter and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check ## linter, types, every test, coverage
	$(BIN)/pytest --cov --cov-report=term --cov-fail-under=90

format: setup ## format the code, mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --generate-hashes \
		--override lock-overrides.txt --no-annotate --no-header --output-file requirements.lock \
		$(addprefix --no-emit-package ,$(CUDA_PACKAGES))

clean: ## remove what was made: the environment, artifacts, installed model versions, caches
	rm -rf .venv artifacts model_repository/reentry_lstm/[0-9]* .mypy_cache .ruff_cache .pytest_cache .coverage* \
		.hypothesis build *.egg-info
