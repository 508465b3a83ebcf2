import copy
import functools

import flask_openapi.utils
import pytest
from flask import Flask
from helpers import Brightness, photo, picture, remembering
from jinja2 import FileSystemBytecodeCache

from app import create_app


@pytest.fixture(autouse=True)
def _fast_start(shared_image_workers, compiled_templates, model_schema, monkeypatch):
    monkeypatch.setattr(Flask, "jinja_options", {"bytecode_cache": compiled_templates})
    monkeypatch.setattr(flask_openapi.utils, "get_model_schema", model_schema)


@pytest.fixture(scope="session")
def compiled_templates(tmp_path_factory):
    """The apps of all tests share their compiled templates, because compiling them takes a tenth of a second."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture(scope="session")
def model_schema():
    """The apps of all tests share the JSON schemas of their data, which take twenty milliseconds for each app."""
    cached = functools.cache(flask_openapi.utils.get_model_schema)
    return lambda *arguments, **options: copy.deepcopy(cached(*arguments, **options))


@pytest.fixture(scope="session")
def generator(generator):
    return remembering(generator)


@pytest.fixture
def app(generator):
    """The application around the model that ships."""
    app = create_app({"RATE_LIMIT": ""}, generator)
    yield app
    app.extensions["captions"].close()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def post(client):
    """Send photos to the application around the model that ships."""

    def post(*photos, to="/", **query):
        data = {"image": list(photos)}
        return client.post(to, data=data, query_string=query, content_type="multipart/form-data")

    return post


@pytest.fixture
def expected(app, generator):
    """The caption that the application should give to a picture, with all alternatives."""
    width = app.config["BEAM_WIDTH"]
    return lambda data=None: generator.caption(data or picture(), beam_width=width, alternatives=width)


@pytest.fixture
def model():
    return Brightness()


@pytest.fixture
def make_app(model):
    """Make applications around `model` with any settings."""
    apps = []

    def make(**config):
        apps.append(create_app({"RATE_LIMIT": "", **config}, model))
        return apps[-1]

    yield make
    model.gate.set()
    for app in apps:
        app.extensions["stopping"].set()
        app.extensions["captions"].close()


@pytest.fixture
def small_app(make_app):
    """An application around `model`, with the default settings."""
    return make_app()


@pytest.fixture
def send():
    """Send files to an application: ``send(app, data, data, to="/")``."""

    def send(app, *files, to="/model/predict", **headers):
        data = {"image": [photo(data, "photo.jpg") for data in files]}
        return app.test_client().post(to, data=data, headers=headers)

    return send
