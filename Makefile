# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need, in virtual environments of their own.
PYTHON ?= python3
DEMO := .venv
DEV := .venv-dev
TRITON := .venv-triton
CLIENTS := .venv-clients
LOCK := requirements-dev.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench fuzz fleet dashboards verify kubernetes lock clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)/.ready ## classify handwritten digits with a one-process fleet (about a minute the first time)
	$(DEMO)/bin/python examples/digits/demo.py

test: $(DEV)/.ready $(CLIENTS)/.ready ## everything, on a real Kafka broker and a real Redis server
	$(DEV)/bin/python -m infra.local check
	$(DEV)/bin/python -m pytest -n $(JOBS) --dist loadgroup --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE) $(ARGS)

COVERAGE ?= 80
JOBS ?= 0

lint: $(DEV)/.ready ## ruff, mypy --strict and the import contracts
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

bench: $(DEV)/.ready ## compare with Triton and write docs/benchmarks.md (about 20 minutes; needs wrk)
	@test -n "$$PENSTOCK_BENCH_TRITON" || $(MAKE) --no-print-directory $(TRITON)/.ready || \
	  { rm -rf $(TRITON); echo "Triton's wheel cannot be installed here; the page will say that Triton was not measured"; }
	$(DEV)/bin/python -m loadtest bench $(ARGS)

fuzz: $(DEV)/.ready ## a million hostile inputs to the codecs and over HTTP, 200,000 records through a real broker
	$(DEV)/bin/python -m tests.bad_input $(ARGS)

fleet: $(DEV)/.ready ## a real broker, Redis, a gateway and two workers with the demo's model, until Ctrl-C
	$(DEV)/bin/python -m infra.local fleet --model-repository examples/digits/models

dashboards: $(DEV)/.ready ## the same with Prometheus and its dashboard (needs Debian's prometheus), and some calls to see
	$(DEV)/bin/python -m infra.local dashboards --model-repository examples/digits/models $(ARGS)

verify: $(DEV)/.ready ## break a fleet on a real broker and a real Redis on purpose, and judge what it promises
	$(DEV)/bin/python -m infra.local verify $(ARGS)

kubernetes: $(DEV)/.ready ## install the Helm chart on a real control plane and let KEDA scale it (minutes; builds them the first time)
	$(DEV)/bin/python -m infra.kubernetes fetch --within $(BUILD_WITHIN)
	PENSTOCK_KUBERNETES_BUILT_ONLY=1 $(DEV)/bin/python -m pytest -m kubernetes -rs tests/kubernetes $(ARGS)

BUILD_WITHIN ?= 7200

lock: ## pin what CI installs
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -q '.[onnx,torch,parquet,images,grpc,s3,loadtest,local,dev]'
	.venv-lock/bin/pip freeze --all --exclude penstock --exclude pip | sed 's/+cpu//; /^penstock/d' > $(LOCK)
	rm -rf .venv-lock

clean: ## remove the virtual environments and caches
	rm -rf $(DEMO) $(DEV) $(TRITON) $(CLIENTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

$(DEMO)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Penstock needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(DEMO) || { echo "venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing Penstock with onnxruntime into $(DEMO) ..."
	@$(DEMO)/bin/pip install --quiet --disable-pip-version-check -e '.[onnx]'
	@touch $@

$(DEV)/.ready: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Penstock needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(DEV) || { echo "venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing Penstock with everything the tests need into $(DEV) ..."
	@$(DEV)/bin/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[onnx,torch,parquet,images,grpc,s3,loadtest,local,dev]'
	@touch $@

$(TRITON)/.ready: $(LOCK)
	@echo "installing Triton from the wheel nvidia-pytriton into $(TRITON) ..."
	@$(PYTHON) -m venv $(TRITON)
	@$(TRITON)/bin/pip install --quiet --disable-pip-version-check nvidia-pytriton "$$(grep '^onnxruntime==' $(LOCK))"
	@touch $@

PERF_ANALYZER := --platform manylinux1_x86_64 --only-binary=:all: tritonclient==2.49.0

$(CLIENTS)/.ready: requirements-clients.txt
	@echo "installing Triton's and KServe's clients, which the tests run, into $(CLIENTS) ..."
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check -r requirements-clients.txt
	@$(CLIENTS)/bin/pip download --quiet --disable-pip-version-check --no-deps -d $(CLIENTS)/wheel $(PERF_ANALYZER) && \
	  $(CLIENTS)/bin/python -m zipfile -e $(CLIENTS)/wheel/tritonclient-*.whl $(CLIENTS)/wheel && \
	  install -m 755 $(CLIENTS)/wheel/*.data/data/bin/perf_analyzer $(CLIENTS)/perf_analyzer && rm -rf $(CLIENTS)/wheel || \
	  echo "perf_analyzer cannot be had here: its tests are skipped"
	@touch $@
