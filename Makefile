# make train   install, then train SAC on Brax's ant        make train ARGS="--seed 1"
# make test    install, then test everything that is quick  make test ARGS="-k replay"
# make test-all   also what kills, starts processes, builds wheels or compiles whole Brax; test-slow: only that
# make check   format, lint and types                       make learn   the long learning runs
# make browser opens the pages that rlx makes in a headless Chromium, which it installs where it may
# make docs    build the site into build/docs               make notebooks   run the notebooks and save what they show
# make bench   rlx against its bounds; bench-peers, bench-learn, bench-gpu PART=targets: see benchmarks/README.md
# make torture kills 150 runs and resumes them, a quarter of an hour; fills the table of docs/reliability.md
# make fuzz   random command lines, and commands on damaged files; ARGS="--only runs --cases 2000 --seed 0"
# Another Python lives beside the first, in a folder of its own: make test PYTHON=python3.12

# Only a Python that starts counts (a pyenv shim may not); behind a shim, pyenv's own folder is looked through.
runs = $(shell for p in $(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/$(1); do \
    "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

ifneq ($(filter file undefined,$(origin PYTHON)),)
  FOUND := $(or $(call runs,python3.11),$(call runs,python3))
  $(if $(FOUND),,$(error rlx needs Python 3.11 or newer and found none: install one, or name it with PYTHON=/path/to/python))
  VENV := .venv
else
  FOUND := $(call runs,$(PYTHON))
  $(if $(FOUND),,$(error PYTHON=$(PYTHON) does not start or is older than 3.11: name a Python 3.11 or newer, or leave PYTHON out))
  VENV := .venv-$(call version,$(FOUND))
endif

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

PART := targets learn update switches rest

.PHONY: bench bench-peers bench-learn bench-gpu install train test test-slow test-all smoke learn browser torture fuzz docs notebooks check python

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing rlx and the pinned packages into $(VENV): a minute or two"
	@"$(FOUND)" -m venv $(VENV)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@

# 130: stopped by Ctrl-C, and saved, which is no error.
train: install
	$(BIN)/rlx train sac --env brax:ant $(ARGS) || test $$? = 130

WORKERS := 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) $(ARGS)

# Slow tests wait for processes, sleeps and disks for a quarter of their time.
test-slow: WORKERS := 3
test-slow: install
	$(PYTEST) -m "slow and not learn and not browser" $(ARGS)

test-all: install
	$(PYTEST) -m "not learn and not browser" $(ARGS)

smoke: install
	$(BIN)/python -m pytest -m smoke $(ARGS)

learn: install
	$(BIN)/python -m pytest -m learn $(ARGS)

CHROMIUM := chromium chromium-browser google-chrome

browser: install
	@which $(CHROMIUM) 2>/dev/null | grep -q . || \
	    { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || \
	    { echo "No Chromium here, and it could not be installed: as root, apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser $(ARGS)

TORTURE := $(BIN)/python -m tests.kill --kills 50 --workers 2
FOUND_BY := .cache/torture

torture: install
	$(TORTURE) --agent sac --driver fused --json $(FOUND_BY)/1.json $(ARGS)
	$(TORTURE) --agent pql --driver pipelined --json $(FOUND_BY)/2.json $(ARGS)
	$(TORTURE) --agent iql --driver offline --json $(FOUND_BY)/3.json $(ARGS)
	$(BIN)/python -m tests.kill_points
	$(BIN)/python -m tests.kill --table docs/reliability.md $(FOUND_BY)/1.json $(FOUND_BY)/2.json $(FOUND_BY)/3.json

fuzz: install
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.fuzz $(ARGS)

# The theme prints a banner about mkdocs 2 unless it is told that we know.
docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: install
	$(BIN)/python scripts/run_notebooks.py $(ARGS)

bench: install
	$(BIN)/python benchmarks/run.py own $(ARGS)

bench-peers: install
	benchmarks/peers/install.sh
	$(BIN)/python benchmarks/run.py peers $(ARGS)

bench-learn: install
	benchmarks/peers/install.sh brax
	$(BIN)/python benchmarks/learn.py $(ARGS)

bench-gpu: install
	$(BIN)/python benchmarks/run.py gpu --part $(PART) --repeats 5 --budget 500 $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy rlx tests

python:
	@echo "$(FOUND)"
