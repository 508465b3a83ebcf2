"""The model in Keras: encoder, decoder, search, and their export to LiteRT. Everything here imports Keras."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow reports a missing GPU as an error
