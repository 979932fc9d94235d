# Everything runs in an environment of its own, .venv: made by uv when it is there, else by venv and pip.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := embedded,dagster,celery,dask,k8s,examples,dev
READY := $(VENV)/.ready

.PHONY: demo ui test torture lint clean

demo: $(READY) ## flights on full, midi and mini
	@$(BIN)/python -m pipedag_dagster.examples.flights.demo

ui: $(READY) ## the UI, with all instances
	$(BIN)/dagster dev -w workspace.yaml

test: $(READY) ## the whole test suite, on its own embedded PostgreSQL
	$(BIN)/python -m pytest -n auto

torture: $(READY) ## the long form of the tests that break things on purpose; prints a table
	PIPEDAG_TORTURE=long $(BIN)/python -m pytest pipedag_dagster_tests/torture

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## stop the embedded PostgreSQL and remove everything that was made here
	-@test ! -x $(BIN)/pipedag-dagster || $(BIN)/pipedag-dagster stop
	rm -rf $(VENV) .pipedag .dagster_home .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@echo "Making the environment $(VENV) ..."
	@if command -v uv >/dev/null 2>&1; then \
		uv venv -q --clear --python $(PYTHON) $(VENV) && \
		uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
		$(PYTHON) -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@
