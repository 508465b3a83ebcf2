"""Data sets, features, training and evaluation: what the notebooks use. Serving needs none of it."""
