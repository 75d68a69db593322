# Every target does its own set-up. A machine needs only Python 3.11 or newer, make and git.
PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := 2.13.0
# Extra packages that the lock needs for newer Pythons than the one that writes it: papermill needs aiohttp from 3.12 on.
LOCKED_TOO := aiohttp

CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# More than eight workers take longer to start than they save.
JOBS ?= $(shell echo $$(( $(CORES) < 8 ? $(CORES) : 8 )))

# Without this option Jupyter refuses to start as root, the usual user in a container.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Environment in which stored outputs are made and checked: one thread per process, one instruction set (so that machines
# differ in the last digits only), and a run store separate from runs trained with other settings.
CHECK_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2 ANM_NB_OUTPUTS="$(CURDIR)/outputs/check"

# If a backend for scripts is set, figures do not appear in the notebooks.
unexport MPLBACKEND
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# ---- set-up ----------------------------------------------------------------------------------------------------
# The stamp holds the path of the checkout, because a virtual environment breaks when it is moved.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# The stamp is removed first and written last, so an interrupted install starts again from scratch.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("anm-nb needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + " (choose another: make PYTHON=python3.11 ...)")'
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV): a few minutes the first time"
	@fresh=--clear; [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ] || fresh=--upgrade; rm -f $@; $(PYTHON) -m venv $$fresh $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

# ---- the commands ----------------------------------------------------------------------------------------------
.PHONY: demo
demo: $(STAMP)  ## run every notebook with its quick profile and write outputs/quick/index.html
	@$(BIN)/anm-nb demo

.PHONY: test
test: lint types  ## lint, types, unit tests, and all notebooks against their stored outputs
	$(CHECK_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env tests notebooks $(PYTEST_ARGS)

.PHONY: lab
lab: $(STAMP)  ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyter lab $(AS_ROOT) notebooks

.PHONY: lint
lint: $(STAMP)  ## ruff only
	$(BIN)/python -m ruff check .

.PHONY: types
types: $(STAMP)  ## mypy only
	$(BIN)/python -m mypy

.PHONY: unit
unit: $(STAMP)  ## unit tests only (select some with PYTEST_ARGS="-k name")
	$(CHECK_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests $(PYTEST_ARGS)

.PHONY: nbval
nbval: $(STAMP)  ## notebooks against their stored outputs only
	$(CHECK_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env notebooks $(PYTEST_ARGS)

.PHONY: notebooks
notebooks: $(STAMP)  ## run the notebooks in place; refresh their stored outputs and docs/results.md
	$(CHECK_ENV) $(BIN)/python -m jupyter nbconvert --to notebook --inplace --execute \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False \
		--ExecutePreprocessor.kernel_name=python3 notebooks/*.ipynb
	@$(BIN)/python docs/write_results.py

.PHONY: results
results: $(STAMP)  ## write docs/results.md from the answers stored in the notebooks
	@$(BIN)/python docs/write_results.py

.PHONY: site
site: $(STAMP)  ## write the stored notebooks and the docs as a static site in outputs/site
	@$(BIN)/python docs/static_site.py

.PHONY: lock
lock:  ## rewrite requirements.lock and the pins of environment.yml with the newest versions allowed
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv" build *.new' EXIT; \
	$(PYTHON) -m venv "$$venv"; \
	"$$venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)" $(LOCKED_TOO) ".[dev,browser]"; \
	{ printf '# Exact versions of everything `make demo` and `make test` install. Written by `make lock`; do not edit by hand.\n'; \
	  printf '# On other machines the same torch line brings its CUDA packages along; torch pins those itself.\n'; \
	  "$$venv/bin/python" -m pip freeze --all --exclude anm-nb --exclude pip \
	  | sed 's/+[a-z0-9.]*$$//' | grep -Ev '^(cuda|nvidia|triton)' | LC_ALL=C sort -f; \
	} > requirements.lock.new; \
	mv requirements.lock.new requirements.lock; \
	awk -F== 'NR == FNR { pin[$$1] = $$2; next } /^ *- [A-Za-z0-9_-]+==/ { name = $$1; sub(/^ *- /, "", name); \
	  $$0 = $$1 "==" pin[name] } { print }' requirements.lock environment.yml > environment.yml.new; \
	mv environment.yml.new environment.yml

.PHONY: clean
clean:  ## remove the virtual environment, caches and build products; keep outputs
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
