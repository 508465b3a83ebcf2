"""The one place that knows which Keras backend runs: compiling a function."""

import contextlib
import ctypes
import functools
import gc
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

# What TensorFlow's converter says of every function: ours have nothing to track.
logging.getLogger("absl").addFilter(lambda record: "trackable_obj" not in record.getMessage())

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_here = threading.local()  # what a thread knows of itself
_pool = ThreadPoolExecutor(PROCESSORS, "processor", initializer=lambda: setattr(_here, "processors", 1))


def _processors() -> int:
    """Those at the disposal of this thread."""
    return getattr(_here, "processors", PROCESSORS)


def on_each_processor(function: Callable, items: Sequence) -> Iterator:
    """``map`` with a thread for each processor, which is then all that `quantized` functions use; a single item stays here."""
    return map(function, items) if len(items) == 1 or _processors() == 1 else _pool.map(function, items)


def in_groups(items: Sequence, most: int) -> list[Sequence]:
    """Slices of so many items, as long as each processor gets one; the rest one by one."""
    grouped = len(items) // (most * _processors()) * most * _processors()
    return [items[i : i + most] for i in range(0, grouped, most)] + [items[i : i + 1] for i in range(grouped, len(items))]


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


def quantized(function: Callable, shape: tuple, dtype: str, together: int = 1) -> Callable:
    """``function``, compiled for inference by LiteRT with its weights rounded to int8.

    Args:
        function: of a batch of items, one tensor (B, …), to a tuple of tensors (B, …).
        shape, dtype: of an item.
        together: items that a processor computes in one call where there are that many (`in_groups`).

    Returns a function of a batch, an array (B, …), to a list of arrays (B, …). One item gets all processors, up to
    eight; of several, each processor takes the next few (`on_each_processor`). It is compiled at the first call, from the
    weights of that moment, for one item and for several apart.
    """
    if keras.backend.backend() != "tensorflow":
        return compiled(function)
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    @functools.cache
    def converted(items):
        traced = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((items, *shape), dtype))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        converter.experimental_enable_resource_variables = False  # constants all, inside loops too
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        try:
            return converter.convert()
        finally:
            _return_freed_memory()

    making, running = threading.Lock(), threading.Lock()

    def interpreter(items):
        with making:
            one = Interpreter(model_content=converted(items), num_threads=min(_processors(), 8))
        one.allocate_tensors()
        (into,) = one.get_input_details()
        results = [detail["index"] for detail in one.get_output_details()]

        def run(batch):
            one.set_tensor(into["index"], np.asarray(batch, dtype))
            one.invoke()
            return [one.get_tensor(index) for index in results]

        return run

    shared = functools.cache(interpreter)
    mine = threading.local()

    def run_some(batch):
        items = len(batch)  # one, or as many as go together
        if _processors() > 1:
            with running:  # an interpreter serves one thread at a time
                return shared(items)(batch)
        own = mine.__dict__
        if items not in own:
            own[items] = interpreter(items)
        return own[items](batch)

    def run(batch):
        groups = in_groups(batch, together)
        if len(groups) == 1:
            return run_some(batch)
        return [np.concatenate(parts) for parts in zip(*on_each_processor(run_some, groups))]

    return run


def _return_freed_memory() -> None:
    """Conversion needs a gigabyte for a moment, which glibc keeps unless it is asked."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
