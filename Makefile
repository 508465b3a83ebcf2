# make run       installs what the app needs and serves it; no TensorFlow
# make test      installs everything and runs all tests
# make coverage  runs all tests and shows how much of the code they run; a quarter slower
# make lint      installs everything and runs ruff and mypy
# make train     installs what training needs and trains a model; it takes hours and resumes where it stopped
# make lock      writes the exact versions of requirements*.txt, here and in deploy/ray, into requirements*.lock

PYTHON ?= python3
HOST = 127.0.0.1
PORT = 8000
DATASET ?= data/flickr8k

# pip would compile on one core, and what is hardly ever imported too. Files for another Python fail: no matter.
define install
	.venv/bin/python -m pip install --quiet --require-hashes --no-compile -r $<
	.venv/bin/python -m compileall -qq -j 0 -x '/(tests?|rllib|sympy)/' .venv/lib || true
endef

run: .venv/serve
	.venv/bin/python app.py --host $(HOST) --port $(PORT)

test: .venv/dev
	sh tests/browser/install-browser.sh
	.venv/bin/python -m pytest

coverage: .venv/dev
	sh tests/browser/install-browser.sh
	.venv/bin/python -m pytest --cov --cov-report term:skip-covered

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

train: .venv/train
	.venv/bin/python -m captioning.training.run -p DATASET "$(DATASET)"

lock: .venv/dev
	.venv/bin/uv pip compile --quiet --no-strip-extras requirements-dev.txt -o requirements-dev.lock
	.venv/bin/uv pip compile --quiet --no-strip-extras -c requirements-dev.lock requirements.txt -o requirements.lock
	.venv/bin/uv pip compile --quiet --no-strip-extras -c requirements-dev.lock requirements-serve.txt -o requirements-serve.lock
	.venv/bin/uv pip compile --quiet --no-strip-extras -c requirements-dev.lock deploy/ray/requirements.txt -o deploy/ray/requirements.lock

.venv/serve: requirements-serve.lock | .venv/bin/python
	$(install)
	touch $@

.venv/train: requirements.lock | .venv/bin/python
	$(install)
	touch $@ .venv/serve

.venv/dev: requirements-dev.lock | .venv/bin/python
	$(install)
	touch $@ .venv/train .venv/serve

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.PHONY: run test coverage lint train lock
