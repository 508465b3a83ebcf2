"""One worker of a training, for tests."""

import os
import signal
from pathlib import Path

import numpy as np
from training_runs import compile_fast, new_decoder, new_run

from captioning.training.self_critical import SelfCriticalTraining
from captioning.training.teacher_forcing import Training
from captioning.training.workers import WorkerError, connect

KINDS = {"forcing": Training, "self-critical": SelfCriticalTraining}


def work(tf_config: str, folder: Path, kind="forcing", epochs=1, batch_size=7, timeout=300.0, death=None) -> None:
    """Train as one worker of the cluster ``tf_config``, in a process of its own.

    It writes the loss of each step and the last weights into ``folder``. An error goes to ``folder``/error.txt, with
    exit code 2. Before step ``death``, the process kills itself.
    """
    os.environ["TF_CONFIG"] = tf_config
    try:
        workers = connect(timeout)
        compile_fast()
        decoder = new_decoder(workers.index)  # the others' first weights must not count
        training = new_run(KINDS[kind], folder, decoder, epochs=epochs, batch_size=batch_size, workers=workers)
        losses: list[float] = []
        step = training._step

        def recorded(*arguments):
            if len(losses) == death:
                os.kill(os.getpid(), signal.SIGKILL)
            losses.append(float(step(*arguments)))
            return losses[-1]

        training._step = recorded
        history = training.run()
        weights = np.concatenate([w.ravel() for w in training.decoder.get_weights()])
        np.savez(folder / "end.npz", losses=losses, weights=weights, history=history["loss"])
    except WorkerError as error:
        (folder / "error.txt").write_text(str(error))
        os._exit(2)
