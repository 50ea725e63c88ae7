# Every target builds .venv first, so that any one of them works on a fresh clone.
PYTHON  ?= python3
VENV    ?= .venv
RUN     := $(VENV)/bin/python
STAMP   := $(VENV)/.installed

DATASET ?= digits
DEFENSE ?= cnn,adv_linf,adv_l2,abs,eabs
ATTACK  ?= all_linf,all_l2
PRESET  ?= quick

.PHONY: bench report test check install perf clean
.DEFAULT_GOAL := bench

bench: install  ## train what is missing, attack it, print and write the tables
	$(RUN) -m benchmark.run --dataset $(DATASET) --defense $(DEFENSE) --attack $(ATTACK) --preset $(PRESET)

report: install  ## results/<dataset>/report.html from the records
	$(RUN) -m benchmark.report --dataset $(DATASET)

test: install  ## the whole test suite
	$(RUN) -m pytest

check: install  ## lint, formatting, types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

perf: install  ## speed ratios against the straightforward versions
	$(RUN) -m tests.perf

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
