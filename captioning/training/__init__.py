"""Data sets, features, training and evaluation: what the notebooks use. Serving needs none of it."""

import captioning.network  # noqa: F401  # its settings, before a module here imports TensorFlow
