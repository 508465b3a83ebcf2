"""One worker of a training, for tests."""

import os
import signal
from functools import partial
from pathlib import Path

import encoders
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from training_runs import CAPTIONS, compile_fast, new_decoder, new_run, write_short_captions

from captioning.network.encoder import ENCODERS
from captioning.training.self_critical import SelfCriticalTraining
from captioning.training.teacher_forcing import Distillation, Training
from captioning.training.workers import WorkerError, connect

TEACHER_SEED = 100


def new_training(kind: str, folder: Path, decoder: keras.Model, **settings) -> Training:
    """A stage of notebook 02 with a tiny decoder."""
    if kind == "distillation":
        return new_run(partial(Distillation, new_decoder(TEACHER_SEED, name="lstm")), folder, decoder, **settings)
    if kind == "fine-tuning":
        ENCODERS["mobilenet"] = encoders.MOBILENET
        settings |= {"encoder": encoders.tiny_encoder(), "encoder_learning_rate": 1e-4, "image_paths": draw(folder)}
    return new_run(SelfCriticalTraining if kind == "self-critical" else Training, folder, decoder, **settings)


def draw(folder: Path) -> dict[str, Path]:
    """A picture in the colour of each caption."""
    paths = {name: folder / name for name in CAPTIONS}
    for name, captions in CAPTIONS.items():
        Image.new("RGB", (64, 64), captions[-1].split()[0]).save(paths[name])
    return paths


def work(
    tf_config: str,
    folder: Path,
    kind="teacher forcing",
    epochs=1,
    batch_size=7,
    dropout=0.0,
    timeout=300.0,
    death=None,
    compiled=True,
) -> None:
    """Train as one worker of the cluster ``tf_config``, in a process of its own.

    It writes the loss of each step and the last weights into ``folder``. An error goes to ``folder``/error.txt, with
    exit code 2. Before step ``death``, the process kills itself.
    """
    os.environ["TF_CONFIG"] = tf_config
    try:
        workers = connect(timeout)
        compile_fast()
        write_short_captions()
        tf.config.run_functions_eagerly(not compiled)
        depth = 1024 if kind == "fine-tuning" else 3
        decoder = new_decoder(workers.index, dropout, depth, "lstm")  # the others' first weights must not count
        training = new_training(kind, folder, decoder, epochs=epochs, batch_size=batch_size, workers=workers)
        losses: list[float] = []
        step = training._step

        def recorded(*arguments):
            if len(losses) == death:
                os.kill(os.getpid(), signal.SIGKILL)
            losses.append(float(step(*arguments)))
            return losses[-1]

        training._step = recorded
        history = training.run()
        weights = np.concatenate([w.ravel() for model, _ in training.models for w in model.get_weights()])
        np.savez(folder / "end.npz", losses=losses, weights=weights, history=history["loss"])
    except WorkerError as error:
        (folder / "error.txt").write_text(str(error))
        os._exit(2)
