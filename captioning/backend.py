"""The one place that knows which Keras backend and which processor runs: compiling a function."""

import re
from collections.abc import Callable
from pathlib import Path

import keras


def compiled(function: Callable, xla: bool = False) -> Callable:
    """``function`` of tensors, compiled by the backend once for each shape it is called with.

    With ``xla`` by XLA, which takes a second longer and is worth it for many small steps.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())  # a few shapes are meant
        return tf.function(function, reduce_retracing=False, jit_compile=xla)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def frozen(function: Callable, shape: tuple, dtype: str) -> Callable:
    """``function`` of one array, compiled with the weights it reads, as they are now.

    The backend brings constant weights into the processor's order once, variables at each call. ``shape`` may begin
    with None: one compilation for every batch size.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, dtype))
        graph = convert_variables_to_constants_v2(traced)
        return lambda array: graph(tf.constant(array, dtype))[0]
    return compiled(function)


def inference_precision() -> str:
    """``bfloat16`` where the processor multiplies it in hardware, else ``float32``."""
    try:
        flags = re.findall(r"\w+", Path("/proc/cpuinfo").read_text().split("\n\n")[0])
    except OSError:  # not Linux
        flags = []
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"
