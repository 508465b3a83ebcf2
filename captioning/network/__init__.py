"""The model in Keras: encoder, decoder, search, and their export to LiteRT. Everything here imports Keras."""

import os

# TensorFlow reads these when it is imported, so import this package first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow reports a missing GPU as an error
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # a quarter faster; the default only for processors with AVX-512
