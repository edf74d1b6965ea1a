# `make run` takes a fresh clone to a scored file, `make test` runs every check, `make help` lists all targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Commands and tests start many Python processes. Importing PyTorch takes twice as long without stored bytecode.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
# Output folder of `make run`.
OUT ?= artifacts
# Your own files instead of simulated ones: make run TRAIN=path/train.csv TEST=path/test.csv
TRAIN ?=
TEST ?=
# Number of flights to simulate for the training if TRAIN is empty.
TRACKS ?= 90
# Index of PyTorch builds without CUDA. `make setup GPU=1` installs the CUDA build from PyPI instead.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU ?=

# Program that builds the image: the first of these that is installed, or ENGINE=podman.
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(shell command -v $(engine) >/dev/null && echo $(engine))))
# Target of Dockerfile.triton: cpu, gpu, gateway, client, pipeline, train or perf.
TARGET ?= cpu
# Registry in front of the image name, as in ghcr.io/owner. Leave it empty for an image that is not pushed.
REGISTRY ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Tag of the image, to which the name of a server's target is added; a pipeline sets the commit.
RELEASE ?= $(VERSION)
# The targets that are no server.
OTHERS := gateway client pipeline train perf
TAG ?= $(RELEASE)$(if $(filter $(OTHERS),$(TARGET)),,-$(TARGET))
NAME := $(REGISTRY:%=%/)$(if $(filter $(OTHERS),$(TARGET)),reentry-$(TARGET),reentry-triton)
IMAGE ?= $(NAME):$(TAG)
# Further options of the image build, such as --cache-from.
BUILD_FLAGS ?=
# podman and buildah drop the HEALTHCHECK unless the image has the Docker format.
FORMAT := $(if $(filter docker,$(ENGINE)),,--format docker)
# Folder of the bill of materials and of the reference to a pushed image.
ABOUT := $(OUT)/image$(if $(filter $(OTHERS),$(TARGET)),/$(TARGET))
# Cluster targets: deploy OVERLAY=staging IMAGE=...@sha256:... GATEWAY_IMAGE=...@sha256:...,
# rollback NAMESPACE=reentry-staging [DEPLOYMENT=reentry-gateway] [REVISION=3].
OVERLAY ?=
GATEWAY_IMAGE ?=
DEPLOYMENT ?=
NAMESPACE ?=
REVISION ?=
# Images on the command line or in the environment.
GIVEN_IMAGES = $(or $(strip $(if $(filter file,$(origin IMAGE)),,$(IMAGE)) $(GATEWAY_IMAGE)),\
	$(error which image? make verify IMAGE=NAME@sha256:...))
# sign, verify: reference of a key that cosign reads, such as hashivault://reentry. Without it, signatures are keyless: they
# have the identity of the pipeline, and verify requires the identity SIGNER, confirmed by the service ISSUER.
SIGNING_KEY ?=
SIGNER ?=
ISSUER ?=
SIGNED_BY = $(if $(SIGNING_KEY),--key $(SIGNING_KEY),--certificate-identity \
	$(or $(SIGNER),$(error which signer? make verify SIGNER=... ISSUER=... or SIGNING_KEY=...)) --certificate-oidc-issuer \
	$(or $(ISSUER),$(error which issuer? make verify SIGNER=... ISSUER=...)))
# Number of test processes. Each one starts its own Triton server. About half of the time a test waits for a server or
# a process, so two cores have work for three.
WORKERS ?= 3
# test: COVERAGE=1 also measures the coverage, which takes about a third longer, and fails below 90 %.
COVERAGE ?=
# fuzz: number of files of each kind, and the random seed. gateway-fuzz: number of random requests of each route.
CASES ?= 5000
SEED ?= 0
# URL of a running server: health-check URL=http://HOST:8000, load-test URL=grpc://HOST:8001. Without it, load-test starts a server.
URL ?=

# Packages that only torch's CUDA build needs; the lock leaves them out.
CUDA_PACKAGES := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: help setup run test test-unit fuzz gateway-fuzz lint check format lock sbom-lock audit build secrets scan sbom push \
	sign verify deploy rollback health-check minikube monitoring load-test jobs-campaign stalls matrix figures page \
	infra-test infra-scan clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## create .venv from the lock

# Only the extras that `make run` needs. The constraints fix the versions and their hashes.
.venv/.run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"error: Python {v[0]}.{v[1]}; expected 3.11 to 3.13; fix: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
ifeq ($(GPU),)
	$(BIN)/pip install --quiet --disable-pip-version-check --retries 1 --no-deps --extra-index-url $(TORCH_INDEX) \
		"$$(grep -o '^torch==[^ ]*' requirements.lock)"
else
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -o '^torch==[^ ]*' requirements.lock)"
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --override lock-overrides.txt \
		--editable '.[client,train,export,serve]'
	$(onnxruntime)
	touch $@

.venv/.ready: .venv/.run
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --requirements requirements.lock
	$(onnxruntime)
	touch $@

# With GPU=1, the build of ONNX Runtime for CUDA, whose files replace those of the other one.
ifneq ($(GPU),)
define onnxruntime
$(BIN)/uv pip uninstall --quiet --python $(BIN)/python onnxruntime
$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --reinstall onnxruntime-gpu=="$$(sed -n 's/^onnxruntime==\([^ ]*\).*/\1/p' requirements.lock)"
endef
endif

# A step that exits with 1 and wrote its file has set bad tracks aside. The remaining steps run, and `make run` exits with 1.
run: .venv/.run ## run everything once: simulate, train, evaluate, export, serve, score, summary
	@status=0; \
	step() { \
		local made=$$1 code=0; shift; \
		[ -z "$$made" ] || rm -f "$$made"; printf '\n$$ %s\n' "$$*"; \
		"$(BIN)/$$@" || code=$$?; \
		if [ $$code -ne 0 ]; then [ $$code -eq 1 ] && [ -e "$$made" ] || exit $$code; status=1; fi; \
	}; \
	train="$(TRAIN)" test="$(TEST)"; \
	if [ -z "$$train" ]; then \
		train=$(OUT)/data/train.csv; step $$train reentry simulate $$train --tracks $(TRACKS) --seed 1; \
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

lint: setup ## check code, types, manifests, scripts, image and workflows with linters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy k8s/scripts/*.py
	$(BIN)/yamllint --strict --config-file k8s/.yamllint.yaml k8s .github .gitlab-ci.yml compose.yaml compose.triton.yaml
	$(BIN)/shellcheck --external-sources .ci/run k8s/scripts/*.sh
	$(BIN)/hadolint Dockerfile.triton
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck

check: lint

test: lint ## run linters, types and every test; COVERAGE=1 also measures the coverage
	$(BIN)/pytest $(if $(COVERAGE),--cov --cov-report=term --cov-fail-under=90) \
		--numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

test-unit: setup ## run the unit tests that neither train for long nor start servers (under a minute)
	$(BIN)/pytest tests/unit --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder -m "not slow"

fuzz: setup ## read and write CASES random files of each kind, from random seed SEED
	FUZZ_CASES=$(CASES) FUZZ_SEED=$(SEED) $(BIN)/pytest tests/unit/reentry/tracks/test_fuzz.py

gateway-fuzz: CASES := 300
gateway-fuzz: setup ## send each route of the gateway CASES random requests made from its OpenAPI document, from random seed SEED
	GATEWAY_FUZZ_EXAMPLES=$(CASES) GATEWAY_FUZZ_SEED=$(SEED) $(BIN)/pytest tests/integration/test_gateway_api.py

format: setup ## format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## re-resolve pyproject.toml into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --generate-hashes \
		--override lock-overrides.txt --no-annotate --no-header --output-file requirements.lock \
		$(addprefix --no-emit-package ,$(CUDA_PACKAGES))

sbom-lock: setup ## write the software bill of materials of requirements.lock (CycloneDX, cyclonedx-py)
	@mkdir -p $(OUT)
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --validate \
		--output-file $(OUT)/sbom.cdx.json requirements.lock

# pip-audit exits with 1 if it found something, or if it could not examine a package; then it writes no report.
audit: setup ## look up known vulnerabilities of requirements.lock; fail on those that are not in .trivyignore
	@mkdir -p $(OUT) && rm -f $(OUT)/audit.json
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock --progress-spinner off \
		--format json --output $(OUT)/audit.json || [ -s $(OUT)/audit.json ]
	$(BIN)/python k8s/scripts/vulnerabilities.py lock $(OUT)/audit.json

build: ## build the image, TARGET=cpu, gpu, gateway, client, pipeline, train or perf; a server has the installed model (trains one if there is none)
	@[ -n "$(ENGINE)" ] || { echo "error: docker, podman and buildah are missing; fix: install one of them" >&2; exit 1; }
	@[ -n "$(filter gateway pipeline train,$(TARGET))" ] || compgen -G 'model_repository/reentry_lstm/[0-9]*/model.onnx' >/dev/null || $(MAKE) run
	$(ENGINE) build --file Dockerfile.triton --target $(TARGET) --tag $(IMAGE) $(FORMAT) \
		--build-arg REVISION="$$(git describe --always --dirty --abbrev=40 --exclude='*')" $(BUILD_FLAGS) .

SECRETS := $(OUT)/secrets
secrets: ## write random passwords for compose.yaml, once
	@umask 077 && mkdir -p $(SECRETS) && cd $(SECRETS) && { [ -s database-password ] \
		|| od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >database-password; } \
		&& printf 'postgresql://reentry:%s@database:5432/reentry' "$$(cat database-password)" >database-url \
		&& chmod 644 database-password database-url # the folder is closed; users of the containers read the files

# The report has every finding, accepted ones too, so that the decision can be repeated on another day.
scan: ## scan the image with Trivy; fail on critical findings that have a fix and are not in .trivyignore
	@mkdir -p $(ABOUT)
	trivy image --format json --ignorefile /dev/null --output $(ABOUT)/scan.json $(IMAGE)
	$(PYTHON) k8s/scripts/vulnerabilities.py $(TARGET) $(ABOUT)/scan.json

sbom: ## write the software bill of materials of the image (CycloneDX, Trivy)
	@mkdir -p $(ABOUT)
	trivy image --format cyclonedx --output $(ABOUT)/sbom.cdx.json $(IMAGE)

push: ## push the image to REGISTRY; artifacts/image/.../reference holds the reference to deploy
	@mkdir -p $(ABOUT)
ifeq ($(ENGINE),docker)
	docker push $(IMAGE)
	docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' $(IMAGE) \
		| grep --max-count 1 '^$(NAME)@sha256:' >$(ABOUT)/reference
else
	$(ENGINE) push --digestfile $(ABOUT)/digest $(IMAGE)
	echo "$(NAME)@$$(cat $(ABOUT)/digest)" >$(ABOUT)/reference
endif
	@cat $(ABOUT)/reference

sign: ## sign the pushed image and its bill of materials with cosign, keyless or with the key SIGNING_KEY
	cosign sign --yes $(SIGNING_KEY:%=--key %) "$$(cat $(ABOUT)/reference)"
	cosign attest --yes $(SIGNING_KEY:%=--key %) --type cyclonedx --predicate $(ABOUT)/sbom.cdx.json \
		"$$(cat $(ABOUT)/reference)"

verify: ## verify who signed IMAGE, GATEWAY_IMAGE and their bills of materials: SIGNER of ISSUER, or SIGNING_KEY
	cosign verify $(SIGNED_BY) $(GIVEN_IMAGES)
	cosign verify-attestation --type cyclonedx $(SIGNED_BY) $(GIVEN_IMAGES) >/dev/null

deploy: ## deploy IMAGE=NAME@sha256:... and GATEWAY_IMAGE=... to OVERLAY=staging or production, wait, score a track
	k8s/scripts/deploy.sh $(or $(OVERLAY),$(error which? make deploy OVERLAY=staging)) \
		$(if $(filter file,$(origin IMAGE)),,--image $(IMAGE)) $(GATEWAY_IMAGE:%=--gateway-image %)

rollback: ## roll DEPLOYMENT of NAMESPACE back to the previous revision or REVISION=N, score a track
	k8s/scripts/rollback.sh $(NAMESPACE:%=--namespace %) $(DEPLOYMENT:%=--deployment %) $(REVISION:%=--to-revision %)

health-check: ## check liveness, readiness and a scored track, at URL or in NAMESPACE; a gateway needs REENTRY_KEY
	k8s/scripts/health-check.sh $(if $(NAMESPACE),--namespace $(NAMESPACE),$(URL:%=--url %))

minikube: ## deploy to a new Minikube cluster and score a file
	k8s/scripts/minikube.sh

monitoring: ## install Prometheus rules, alerts and the dashboard in the cluster
	kubectl apply -k k8s/monitoring

load-test: setup ## measure throughput and latency at rising concurrency, of the server at URL or an embedded one
	$(BIN)/python -m perf.load $(URL:%=--url %)

jobs-campaign: setup ## kill workers, gateway and Triton at random over 100 jobs, and compare every result (needs PostgreSQL 15)
	$(BIN)/python -m tests.jobs_campaign --seed $(SEED)

stalls: setup ## count the requests that Triton's scheduler stalls, of the server at URL=http://HOST:8000 or of embedded ones
	$(BIN)/python -m perf.stalls $(URL:%=--url %)

matrix: setup ## run about 1,600 wrong command lines as processes of their own (half an hour)
	$(BIN)/python -m tests.bad_input

figures: ## draw the pictures of docs/figures from their sources (needs Graphviz)
	for name in architecture pipeline; do dot -Tsvg docs/figures/$$name.dot -o docs/figures/$$name.svg; done

page: ## build the gateway's live page into gateway/page/dist (needs Node 20)
	@command -v npm >/dev/null || { echo "error: npm is missing; fix: install Node 20 or later" >&2; exit 1; }
	cd gateway/page && npm ci --ignore-scripts --no-audit --no-fund && npm run types && npm run build

infra-test: setup ## check the Terraform of infra/: format, types, its own tests, an apply to a stand-in for AWS, access
	$(BIN)/pytest tests/contract/test_infra.py

CHECKOV := .cache/checkov
infra-scan: ## scan infra/ with checkov, in an environment of its own
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/pip install --quiet --disable-pip-version-check --requirement infra/scan-requirements.txt
	for environment in dev staging production; do \
		$(CHECKOV)/bin/checkov --directory infra --framework terraform --var-file infra/envs/$$environment/settings.tfvars \
			--compact --quiet --skip-download; \
	done

clean: ## remove the environment, artifacts, the built page, installed model versions and caches
	rm -rf .venv artifacts model_repository/reentry_lstm/[0-9]* model_repository/reentry_lstm/labels.json \
		model_repository/reentry_track/[0-9]* model_repository/reentry_stream/[0-9]* model_repository/scan_step/[0-9]* \
		gateway/page/dist gateway/page/build gateway/page/node_modules \
		.mypy_cache .ruff_cache .pytest_cache .coverage* .hypothesis build *.egg-info
