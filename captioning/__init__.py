"""Image captioning: data sets, encoder, decoder, search, training, evaluation.

Shapes in docstrings: B batch, C captions an image (or beams), T words,
R regions, D feature depth, U decoder units, V vocabulary.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow calls it an error that there is no GPU
