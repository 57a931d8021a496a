# Everything runs in .venv, which is brought up to date when its inputs change.
# PYTHON=/some/python chooses the interpreter of a new .venv.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo quick test gpu check fix docs

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: $(STAMP) ## train a tiny model on this machine and show what reinforcement learning changed
	$(BIN)/diffpo demo

quick: $(STAMP) ## before a commit, in about a minute: format, lint, types and tests of what changed
	$(BIN)/python tests/quick.py

test: $(STAMP) ## run the tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

gpu: $(STAMP) ## on a machine with a CUDA card: prove and measure it, in at most ten minutes
	$(BIN)/diffpo bench --suite gpu; status=$$?; $(BIN)/python benchmarks/write_docs.py && exit $$status

check: $(STAMP) ## check format, lint, types and the floors of the house
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/.docs ## build the documentation site, build/site/index.html; broken links are errors
	$(BIN)/python docs/build_site.py

fix: $(STAMP) ## format, and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.venv/.docs: $(STAMP)
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs]'
	@touch $@

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev,serve,ray,tensorboard,bitsandbytes,reasoning-gym,gguf]'
	@touch $@
