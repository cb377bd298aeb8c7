# Two commands on a fresh machine: `make quickstart` and `make test`. Each makes .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same folder, so exactly one of them
FAISS := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
RUN := runs/quickstart
LANGUAGES := [cs,da,de,en,es,fi,fr,hu,id,it,ja,lt,lv,nl,pl,tr]

.PHONY: quickstart test test-system docs clean

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$(FAISS)]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: $(VENV)/installed
	for split in train val test; do \
	  $(BIN)/mmtrain pack numbers --split $$split --languages "$(LANGUAGES)" --out $(RUN)/shards/$$split || exit 1; \
	done
	$(BIN)/mmtrain fit --config configs/quickstart.yaml
	$(BIN)/mmtrain evaluate $(RUN) --data $(RUN)/shards/test --out $(RUN)/report

test: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	# a test process a core, at most four (each holds torch), and one thread each: more would wait for one another
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not system" --numprocesses auto --maxprocesses 4

test-system: $(VENV)/installed-dev
	# one process more than two cores: that of SLURM's tests waits most of its time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m system -n 3 --dist loadfile

docs: $(VENV)/installed-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf runs build site *.egg-info
