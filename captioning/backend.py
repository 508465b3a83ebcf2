"""The one place that knows which Keras backend runs: compiling a function."""

import contextlib
import ctypes
import gc
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

# What TensorFlow's converter says of every function: ours have nothing to track.
logging.getLogger("absl").addFilter(lambda record: "trackable_obj" not in record.getMessage())

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_here = threading.local()  # what a thread knows of itself
_pool = ThreadPoolExecutor(PROCESSORS, "processor", initializer=lambda: setattr(_here, "one_of_several", True))


def on_each_processor(function: Callable, items: Iterable) -> Iterator:
    """``map`` with a thread for each processor; in there a `quantized` function keeps to one."""
    return map(function, items) if hasattr(_here, "one_of_several") else _pool.map(function, items)


def training_precision() -> str:
    """``mixed_bfloat16`` on a processor that computes in bfloat16; elsewhere that is several times slower: ``float32``."""
    with contextlib.suppress(OSError):
        if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()):
            return "mixed_bfloat16"
    return "float32"


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


def quantized(function: Callable, shape: tuple, dtype: str) -> Callable:
    """``function``, compiled for inference by LiteRT with the weights it reads as they are now, rounded to int8.

    Args:
        function: of one tensor, to a tuple of tensors, all of one item: their shapes begin with 1.
        shape, dtype: of the tensor.

    Returns a function of a batch, an array (B, …), to a list of arrays (B, …). One item gets all processors, up to
    eight; of several, each processor takes the next (`on_each_processor`).
    """
    if keras.backend.backend() != "tensorflow":
        return compiled(function)
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, dtype))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    converter.experimental_enable_resource_variables = False  # constants all, inside loops too
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    model = converter.convert()
    _return_freed_memory()

    def interpreter(threads):
        one = Interpreter(model_content=model, num_threads=threads)
        one.allocate_tensors()
        (into,) = one.get_input_details()
        results = [detail["index"] for detail in one.get_output_details()]

        def run(item):
            one.set_tensor(into["index"], np.asarray(item, dtype))
            one.invoke()
            return [one.get_tensor(index) for index in results]

        return run

    alone, lock = interpreter(min(PROCESSORS, 8)), threading.Lock()  # an interpreter serves one thread at a time
    mine = threading.local()

    def run_one_of_several(item):
        if not hasattr(mine, "run"):
            mine.run = interpreter(1)
        return mine.run(item)

    def run(batch):
        items = [batch[i : i + 1] for i in range(len(batch))]
        if len(items) == 1 and not hasattr(_here, "one_of_several"):
            with lock:
                return alone(*items)
        return [np.concatenate(parts) for parts in zip(*on_each_processor(run_one_of_several, items))]

    return run


def _return_freed_memory() -> None:
    """Conversion needs a gigabyte for a moment, which glibc keeps unless it is asked."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
