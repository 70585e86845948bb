# `make` alone shows what there is. PYTHON=python3.12 chooses the Python,
# EXTRAS=test,fast,serve,yaml has the tests run with the fast compressor too, EXTRAS=test
# with nothing that is optional.
PYTHON ?= python3
ARCHIVE ?=
ARGS ?=
EXTRAS ?= test,serve,yaml

TEST := .venv-test/bin/python
# What tests are compiled to is kept: half of what it takes to collect them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(TEST) -m pytest
LINT := .venv-lint/bin/python
DEMO := .venv-demo/bin/python
BUILD := .venv-build/bin/python
BENCH := .venv-bench/bin/python

# The order of sets in byte code hangs on the seed.
RELEASE = PYTHONHASHSEED=0 $(BUILD) .ci/release.py

# A pytest for each core; one that is done takes over tests of another.
ALL_CORES := --numprocesses auto --maxprocesses 8 --dist worksteal

# What is carried to other machines must run on the oldest Python that we promise.
PORTABLE := --python-version 3.9 --implementation py --abi none --platform any --only-binary=:all:

# What tells one Python from another.
WHICH := -c 'import sys; print(sys.base_prefix, sys.version.split()[0])'

.PHONY: always help demo test test-long test-all lint bench picture pyz wheelhouse dist clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 14

demo: .venv-demo/done  ## push a small image (or ARCHIVE=path) to a registry that is started for it
	@$(DEMO) tests/demo.py $(ARCHIVE)

# Commands are forked from a Python that has loaded dockerpush, where a test runs one to
# its end and does not measure it; elsewhere, and in test-long and test-all, they start.
test: .venv-test/done-$(EXTRAS)  ## run the quick tests on all cores (ARGS=...: one pytest, with these arguments)
	$(if $(ARGS),,DOCKERPUSH_TEST_WARM=1) $(PYTEST) $(or $(ARGS),$(ALL_CORES) -m "not long")

# Tests by hypothesis are in both: here they try more examples.
test-long: .venv-test/done-$(EXTRAS)  ## run what the quick tests leave out, on all cores
	$(PYTEST) $(or $(ARGS),$(ALL_CORES) -m "long or hypothesis" --hypothesis-profile=long)

test-all:  ## run all tests with every Python there is from 3.9 on, the oldest also with urllib3 1.26.5
	tests/all_pythons $(ARGS)

lint: .venv-lint/done  ## ruff and mypy, at the versions in setup.cfg
	$(LINT) -m ruff check
	$(LINT) -m ruff format --check
	$(LINT) -m mypy

bench: .venv-bench/done  ## measure beside skopeo and others on the PATH (ARGS=--full: up to 5 GiB)
	$(BENCH) -m tests.bench $(ARGS)

picture: .venv-test/done-$(EXTRAS)  ## draw tests/bench/push.svg: a push at a terminal, from a real run
	$(TEST) -m tests.bench.picture

# Beside each source lies its byte code for $(PYTHON): all other Pythons take the source.
pyz: wheelhouse  ## dist/dockerpush.pyz: one file that a bare Python runs
	$(RELEASE) pyz
	$(RELEASE) describe

wheelhouse: .venv-build/done  ## dist/wheelhouse: what pip install --no-index needs
	rm -rf dist/wheelhouse
	$(RELEASE) wheel dist/wheelhouse
	$(RELEASE) fetch download $(PORTABLE) --no-deps --require-hashes -d dist/wheelhouse -r .ci/bundled.txt

dist: .venv-build/done  ## a wheel and an sdist in dist/, the same bytes from the same commit
	rm -f dist/dockerpush-*
	$(RELEASE) dist
	$(RELEASE) describe

clean:  ## remove what these commands made
	rm -rf .venv-test* .venv-lint .venv-demo .venv-build .venv-bench build dist *.egg-info
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find dockerpush tests -name __pycache__ -prune -exec rm -rf {} +

# A venv that another Python has made is made anew.
.venv-%/made-by: always
	@[ "$$($(PYTHON) $(WHICH))" = "$$(cat $@ 2>/dev/null)" ] || \
	    { $(PYTHON) -m venv --clear $(@D) && $(PYTHON) $(WHICH) >$@; }

.venv-test/done-$(EXTRAS): setup.cfg setup.py .venv-test/made-by
	$(TEST) -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $@

.venv-lint/done: setup.cfg setup.py .venv-lint/made-by
	$(LINT) -m pip install --quiet -e '.[fast,serve,yaml,lint]'
	@touch $@

.venv-demo/done: setup.cfg setup.py .venv-demo/made-by $(wildcard dockerpush/*.py dockerpush/*/*.py dockerpush/*/*/*.py)
	rm -rf build
	$(DEMO) -m pip install --quiet .
	@touch $@

.venv-bench/done: setup.cfg setup.py .venv-bench/made-by
	rm -rf build
	$(BENCH) -m pip install --quiet '.[fast]'
	@touch $@

.venv-build/done: .ci/build.txt .venv-build/made-by
	$(RELEASE) fetch install --require-hashes -r .ci/build.txt
	@touch $@
