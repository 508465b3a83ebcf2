"""Image captioning.

- The modules here caption photos, clips (with PyAV) and web pages. They need no TensorFlow.
- `captioning.bulk` captions very many photos on Ray.
- `captioning.network` builds the model in Keras: encoder, decoder, search, export.
- `captioning.training` reads data sets, trains and evaluates.

Imports go one way: ``training`` → ``network`` → the modules here.

Shapes in docstrings: B batch, C captions per image, K beams, T words, R regions,
D feature depth, U decoder units, V vocabulary.
"""
