# Everything runs in an environment of its own, .venv: made by uv when it is there, else by venv and pip.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := embedded,pandas,dagster,celery,dask,k8s,examples,docs,dev
LOWEST_EXTRAS := embedded,pandas
READY := $(VENV)/.ready
# Dagster's history of the examples, for `make demo` and `make ui`.
HISTORY := $(CURDIR)/.dagster_home
# What the oldest versions could break: types of data, SQL as text, configuration, a whole run.
LOWEST_TESTS := $(addprefix pipedag_dagster_tests/,data postgres/test_sql_text.py config/test_config.py graph examples/test_seed.py)

.PHONY: help demo ui docs docs-links test test-lowest test-wheel torture bench lint clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) $(HISTORY)/dagster.yaml ## flights on full, midi and mini
	@DAGSTER_HOME=$(HISTORY) $(BIN)/python -m pipedag_dagster.examples.flights.demo

ui: $(READY) $(HISTORY)/dagster.yaml ## the UI of the flights, with all instances
	DAGSTER_HOME=$(HISTORY) $(BIN)/dagster dev -w workspace.yaml

docs: $(READY) ## the documentation as a site, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

docs-links: $(READY) ## check the links to other sites
	$(BIN)/sphinx-build -q -b linkcheck docs docs/_build/links

test: $(READY) ## the whole test suite, on its own embedded PostgreSQL
	$(BIN)/python -m pytest -n auto

test-lowest: .venv-lowest/.ready ## some tests, with the oldest versions of all dependencies
	.venv-lowest/bin/python -m pytest -n 2 $(LOWEST_TESTS)

test-wheel: $(READY) ## build the wheel, install it into an empty environment, make a project with it
	PIPEDAG_TEST_WHEEL=1 $(BIN)/python -m pytest pipedag_dagster_tests/project/test_wheel.py

torture: $(READY) ## the long form of the tests that break things on purpose; prints a table
	PIPEDAG_TORTURE=long $(BIN)/python -m pytest pipedag_dagster_tests/torture pipedag_dagster_tests/sampling \
		pipedag_dagster_tests/project/test_ci.py

bench: $(READY) .venv-pipedag/.ready ## all measurements, beside pydiverse.pipedag; writes docs/benchmarks.md: an hour
	$(BIN)/python benchmarks/bench.py

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## stop the embedded PostgreSQL and remove everything that was made here
	-@test ! -x $(BIN)/pipedag-dagster || $(BIN)/pipedag-dagster stop
	rm -rf $(VENV) .venv-lowest .venv-pipedag dist docs/_build .pipedag .dagster_home .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(HISTORY)/dagster.yaml: dagster.yaml
	@mkdir -p $(HISTORY) && cp $< $@

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV),-c constraints.txt -e '.[$(EXTRAS)]')

.venv-lowest/.ready: pyproject.toml constraints-lowest.txt
	$(call environment,.venv-lowest,-c constraints-lowest.txt -e '.[$(LOWEST_EXTRAS)]' pytest pytest-xdist hypothesis polars)

# Of its own, because it needs other libraries. Its bound on Python would refuse some versions of 3.11.
.venv-pipedag/.ready: benchmarks/compare/requirements.txt
	$(call environment,.venv-pipedag,pip)
	.venv-pipedag/bin/python -m pip install -q --disable-pip-version-check --no-deps --ignore-requires-python -r $<
	@touch $@

# $(call environment,FOLDER,WHAT PIP INSTALLS)
define environment
	@echo "Making the environment $(1) ..."
	@if command -v uv >/dev/null 2>&1; then \
		uv venv -q --clear --python $(PYTHON) $(1) && uv pip install -q --python $(1)/bin/python $(2); \
	else \
		$(PYTHON) -m venv --clear $(1) && $(1)/bin/python -m pip install -q --disable-pip-version-check $(2); \
	fi
	@touch $(1)/.ready
endef
