# The whole interface of this checkout. Needs make, git and a Python (3.11 or newer) with venv; nothing else.
# pip is left to its own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf): what it fetches must match the lock's hashes.

PYTHON ?= python3
VENV ?= .venv
# Most tests wait more than they reckon, so `test` and `test-full` run three for each of two cores; the others run one.
WORKERS ?= 6
CORES ?= 2
UV ?= uv

# The stamp bears the version, so that another PYTHON builds the environment anew.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCKED := $(VENV)/.locked-$(VERSION)
READY := $(VENV)/.ready-$(VERSION)
DEPLOY := $(VENV)/.deploy-$(VERSION)
MUTANTS := $(VENV)/.mutants-$(VERSION)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo dist test test-full test-crash test-crash-sample test-mutants test-leaks test-deploy bench bench-quick lint lock clean help

demo: $(READY)  ## rotate sample policies for real, between a simulated ECGrid and a local OpenBao
	$(VENV)/bin/rotator demo

test: lint  ## lint, then something of every kind of test: what takes long is left to test-full (five minutes)
	ROTATOR_TEST_EXTENT=quick $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal

test-full: lint  ## lint, then every test but the hunt for a key's value (test-leaks) and the deployments (test-deploy)
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal --ignore-glob='*/test_leaks_*.py'

test-crash: $(READY)  ## every kill point, 20,000 random schedules, 2,000 fleets in bad weather, raft clusters without a head (an hour)
	ROTATOR_TEST_EXTENT=every ROTATOR_TEST_INTERLEAVINGS=20000 ROTATOR_TEST_DEPTH=10 $(VENV)/bin/python -m pytest -q -n $(CORES) --dist worksteal \
		tests/test_kill_matrix.py tests/test_interleavings.py tests/test_mutations.py tests/test_vault_faults.py \
		tests/test_consumers.py tests/test_forged.py tests/test_own_key.py tests/test_daemon.py tests/test_fleet.py \
		tests/test_fleet_braked.py tests/test_histories.py

test-crash-sample: $(READY)  ## 4,000 random schedules, drawn anew each time (ROTATOR_TEST_SEED=N draws them again); two minutes
	ROTATOR_TEST_INTERLEAVINGS=4000 $(VENV)/bin/python -m pytest -q -n $(CORES) tests/test_interleavings.py -k "random or once"

test-mutants: $(MUTANTS)  ## small wrong changes to the core, drawn anew each time: do its tests notice them? (a quarter of an hour)
	$(VENV)/bin/python tests/mutants.py

test-leaks: $(READY)  ## the whole hunt for a key's value in everything that the command says and writes
	ROTATOR_TEST_EXTENT=every $(VENV)/bin/python -m pytest -q -n $(CORES) tests/test_leaks*.py

test-deploy: $(DEPLOY)  ## units, image, manifests, alerts, status page, really run; as root on Debian, installs packages
	bash tests/deploy/install.sh
	$(VENV)/bin/python -m pytest -q -m deploy -n $(CORES) --dist loadfile tests/deploy

bench: $(READY)  ## every figure against its floor or peer; writes bench/results.json and the charts (20 minutes)
	$(VENV)/bin/python -m bench

bench-quick: $(READY)  ## the same table in two minutes, with fewer rounds and smaller fleets; writes nothing
	$(VENV)/bin/python -m bench --quick

lint: $(READY)  ## ruff (rules and format) and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict rotator tests bench builder

dist: $(READY)  ## wheel, source distribution, bill of materials (CycloneDX) and checksums, in dist/; the same bytes each time
	$(VENV)/bin/python builder/release.py dist

lock:  ## write the lock files anew (needs uv; UPGRADE=1 takes the newest versions)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: install it, or name it with UV=/path/to/uv" >&2; exit 1; }
	$(LOCK) --output-file requirements/run.txt pyproject.toml
	$(LOCK) --all-extras --constraint requirements/run.txt --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/build.txt requirements/build.in
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/deploy.txt requirements/deploy.in
	$(LOCK) --constraint requirements/dev.txt --output-file requirements/mutants.txt requirements/mutants.in

clean:  ## remove everything that the other targets made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find rotator tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 14

$(LOCKED): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rotator needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(DEPLOY): $(READY) requirements/deploy.txt
	$(PIP) install --require-hashes -r requirements/deploy.txt
	@touch $@

$(MUTANTS): $(READY) requirements/mutants.txt
	$(PIP) install --require-hashes -r requirements/mutants.txt
	@touch $@

$(READY): $(LOCKED) pyproject.toml rotator/__init__.py
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
