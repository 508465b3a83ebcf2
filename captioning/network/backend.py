"""How a function is compiled, and the precision of training."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from captioning import artifacts

# TensorFlow warns of functions that are compiled several times. Here they are, once for each of a few shapes.
tf.get_logger().addFilter(lambda record: "retracing" not in record.getMessage())


def training_precision() -> str:
    """``mixed_bfloat16`` on a processor with bfloat16 instructions, else ``float32``, which is then much faster."""
    with contextlib.suppress(OSError):
        if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()):
            return "mixed_bfloat16"
    return "float32"


def compiled(function: Callable, xla: bool = False) -> Callable:
    """Compile a function of tensors, once for each shape of its arguments. Its loops over tensors are `keras.ops`.

    ``xla`` takes a second longer to compile and makes functions of many small steps faster.
    """
    return tf.function(function, jit_compile=xla, autograph=False)


def precision_of_run(wanted: str, folder: Path) -> str:
    """The precision of a training run: ``wanted``, or if that is empty, what the run in ``folder`` began with, or
    `training_precision`. So a run can be resumed on another processor.

    Raises:
        ValueError: ``wanted`` is none of the two.
    """
    if wanted and wanted not in ("float32", "mixed_bfloat16"):
        raise ValueError(f"PRECISION is {wanted!r}: it must be float32 or mixed_bfloat16, or empty")
    kept = folder / "precision.txt"
    precision = wanted or (kept.exists() and kept.read_text()) or training_precision()
    artifacts.write_bytes(kept, precision.encode())
    return precision


@contextlib.contextmanager
def dtype_policy(precision: str):
    """Layers that are created inside the block compute in ``precision``."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
