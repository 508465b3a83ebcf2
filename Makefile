# make run    sets everything up and serves the app
# make test   sets everything up and runs the tests
# make train  sets everything up and trains the model that ships: hours; run it again and it goes on

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
DATASET ?= data/flickr8k

run: .venv/app
	.venv/bin/python app.py --host $(HOST) --port $(PORT)

test: .venv/dev
	sh tests/browser/install-browser.sh
	.venv/bin/python -m pytest

train: .venv/dev
	mkdir -p data
	for n in 01-data-preparation 02-model-training 03-model-evaluation; do \
	    .venv/bin/papermill -p DATASET $(DATASET) $$n.ipynb data/$$n.ipynb || exit 1; \
	done

.venv/app: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/dev: .venv/app requirements-dev.txt
	.venv/bin/python -m pip install --quiet -r requirements-dev.txt
	touch $@

.PHONY: run test train
