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

# The image: by the first of these programs that is here, or ENGINE=podman.
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(shell command -v $(engine) >/dev/null && echo $(engine))))
# Of Dockerfile.triton: cpu, gpu or client.
TARGET ?= cpu
# In front of the name, as in ghcr.io/owner; none for an image that stays here.
REGISTRY ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)$(if $(filter client,$(TARGET)),,-$(TARGET))
NAME := $(REGISTRY:%=%/)$(if $(filter client,$(TARGET)),reentry-client,reentry-triton)
IMAGE ?= $(NAME):$(TAG)
# More words for the build, such as --cache-from.
BUILD_FLAGS ?=
# podman and buildah drop a HEALTHCHECK from images of their own format.
FORMAT := $(if $(filter docker,$(ENGINE)),,--format docker)
# The cluster: deploy OVERLAY=staging IMAGE=...@sha256:..., rollback NAMESPACE=reentry-staging [REVISION=3].
OVERLAY ?=
NAMESPACE ?=
REVISION ?=
# test: how many files of tests run at a time; each process starts a Triton server of its own.
WORKERS ?= 2
# fuzz: how many files of each kind, and which.
CASES ?= 5000
SEED ?= 0
# A running server: health-check URL=http://HOST:8000, load-test URL=grpc://HOST:8001. Without it load-test starts one.
URL ?=

# What torch's CUDA build wants; the lock leaves it out.
CUDA_PACKAGES := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: help setup run test fuzz lint check format lock build scan sbom push deploy rollback health-check minikube \
	monitoring load-test matrix clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

# A step whose status is 1 and whose file is there did its work and set bad tracks aside: the rest goes on, and `make run`
# ends with 1.
run: setup ## everything once: data, training, evaluation, export, Triton, a scored file, a summary
	@status=0; \
	step() { \
		local made=$$1 code=0; shift; \
		[ -z "$$made" ] || rm -f "$$made"; printf '\n$$ %s\n' "$$*"; \
		"$(BIN)/$$@" || code=$$?; \
		if [ $$code -ne 0 ]; then [ $$code -eq 1 ] && [ -e "$$made" ] || exit $$code; status=1; fi; \
	}; \
	train="$(TRAIN)" test="$(TEST)"; \
	if [ -z "$$train" ]; then \
		train=$(OUT)/data/train.csv; step $$train reentry simulate $$train --tracks 90 --seed 1; \
	fi; \
	if [ -z "$$test" ]; then \
		test=$(OUT)/data/test.csv; step $$test reentry simulate $$test --tracks 10 --seed 2 --no-labels; \
	fi; \
	step $(OUT)/train/model.ckpt reentry train "$$train" --out $(OUT)/train; \
	step $(OUT)/evaluation/evaluation.json \
		reentry evaluate $(OUT)/train/model.ckpt "$$train" --out $(OUT)/evaluation; \
	step "" reentry export $(OUT)/train/model.ckpt --repository model_repository --promote --reason "make run"; \
	step $(OUT)/predictions/predictions.csv reentry predict "$$test" --start-server --out $(OUT)/predictions; \
	printf '\nthe model beside the baselines: %s\nplots: %s\nscored tracks: %s\n' \
		$(OUT)/evaluation/evaluation.md "$(OUT)/evaluation/track.png, onset_errors.png" $(OUT)/predictions/; \
	[ $$status -eq 0 ] || echo "some tracks were set aside, see above" >&2; \
	exit $$status

lint: setup ## linters of code, manifests, scripts, image and workflows; types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict --config-file k8s/.yamllint.yaml k8s .github .gitlab-ci.yml $(wildcard compose.yaml)
	$(BIN)/shellcheck --external-sources .ci/run k8s/scripts/*.sh
	$(BIN)/hadolint Dockerfile.triton
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck

check: lint

test: lint ## linters, types, every test, coverage
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadfile --cov --cov-report=term --cov-fail-under=90

fuzz: setup ## CASES random files of each kind through reading and writing, from SEED on
	FUZZ_CASES=$(CASES) FUZZ_SEED=$(SEED) $(BIN)/pytest tests/unit/reentry/tracks/test_fuzz.py

format: setup ## format the code, mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --generate-hashes \
		--override lock-overrides.txt --no-annotate --no-header --output-file requirements.lock \
		$(addprefix --no-emit-package ,$(CUDA_PACKAGES))

build: ## the image, of TARGET=cpu, gpu or client, by docker, podman or buildah; with a model, made where none is there
	@[ -n "$(ENGINE)" ] || { echo "error: none of docker, podman, buildah is here; fix: install one" >&2; exit 1; }
	@compgen -G 'model_repository/reentry_lstm/[0-9]*/model.onnx' >/dev/null || $(MAKE) run
	$(ENGINE) build --file Dockerfile.triton --target $(TARGET) --tag $(IMAGE) $(FORMAT) \
		--build-arg REVISION="$$(git rev-parse HEAD)" $(BUILD_FLAGS) .

scan: ## fail on critical findings in the image that have a fix, by Trivy
	trivy image --severity CRITICAL --ignore-unfixed --exit-code 1 $(IMAGE)

sbom: ## what the image is made of, as CycloneDX, by Trivy
	@mkdir -p $(OUT)/image
	trivy image --format cyclonedx --output $(OUT)/image/sbom.cdx.json $(IMAGE)

push: ## the image to its REGISTRY; artifacts/image/reference says what to deploy
	@mkdir -p $(OUT)/image
ifeq ($(ENGINE),docker)
	docker push $(IMAGE)
	docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' $(IMAGE) \
		| grep --max-count 1 '^$(NAME)@sha256:' >$(OUT)/image/reference
else
	$(ENGINE) push --digestfile $(OUT)/image/digest $(IMAGE)
	echo "$(NAME)@$$(cat $(OUT)/image/digest)" >$(OUT)/image/reference
endif
	@cat $(OUT)/image/reference

deploy: ## OVERLAY=staging or production, IMAGE=NAME@sha256:... : apply, wait, score a track
	k8s/scripts/deploy.sh $(or $(OVERLAY),$(error which? make deploy OVERLAY=staging)) \
		$(if $(filter file,$(origin IMAGE)),,--image $(IMAGE))

rollback: ## the revision before in NAMESPACE, or REVISION=N; scores a track
	k8s/scripts/rollback.sh $(NAMESPACE:%=--namespace %) $(REVISION:%=--to-revision %)

health-check: ## live, ready, and a track scored: at URL, or in NAMESPACE
	k8s/scripts/health-check.sh $(if $(NAMESPACE),--namespace $(NAMESPACE),$(URL:%=--url %))

minikube: ## from nothing to a scored file on Minikube
	k8s/scripts/minikube.sh

monitoring: ## Prometheus' rules, alerts and dashboard into the cluster
	kubectl apply -k k8s/monitoring

load-test: setup ## throughput and latency at rising concurrency, of the server at URL or of an embedded one
	$(BIN)/python -m perf.load $(URL:%=--url %)

matrix: setup ## wrong command lines, some 1,700 as processes of their own; half an hour
	$(BIN)/python -m tests.bad_input

clean: ## remove what was made: the environment, artifacts, installed model versions, caches
	rm -rf .venv artifacts model_repository/reentry_lstm/[0-9]* model_repository/reentry_lstm/labels.json \
		.mypy_cache .ruff_cache .pytest_cache .coverage* .hypothesis build *.egg-info
