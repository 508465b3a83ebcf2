"""The one place that knows which Keras backend runs: compiling a function."""

from collections.abc import Callable

import keras


def compiled(function: Callable) -> Callable:
    """``function`` of tensors, compiled by the backend once for each shape it is called with."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())  # a few shapes are meant
        return tf.function(function, reduce_retracing=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
