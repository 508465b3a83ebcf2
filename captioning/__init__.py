"""Image captioning: data sets, encoder, decoder, search, training, evaluation.

Shapes in docstrings: B batch, C captions an image (or beams), T words,
R regions, D feature depth, U decoder units, V vocabulary.
"""
