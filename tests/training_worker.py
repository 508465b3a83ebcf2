"""One worker of a training, for tests: python training_worker.py KIND FOLDER EPOCHS [STEP]

The cluster is in TF_CONFIG. It writes the loss of each step and the last weights into FOLDER, and kills itself before
step STEP.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from captioning.training.workers import WorkerError, connect

try:
    workers = connect(timeout=float(os.environ.get("TIMEOUT", 300)))
    from training_runs import compile_fast, new_decoder, new_run

    from captioning.training.self_critical import SelfCriticalTraining
    from captioning.training.teacher_forcing import Training

    compile_fast()
    kinds = {"forcing": Training, "self-critical": SelfCriticalTraining}
    kind, folder, epochs, *death = sys.argv[1:]
    seed = workers.index  # the others' first weights must not count
    batch_size = int(os.environ.get("BATCH_SIZE", 7))
    training = new_run(kinds[kind], Path(folder), new_decoder(seed), epochs=int(epochs), batch_size=batch_size,
                       workers=workers)  # fmt: skip
    losses: list[float] = []
    step = training._step

    def recorded(*arguments):
        if death and len(losses) == int(death[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(float(step(*arguments)))
        return losses[-1]

    training._step = recorded
    history = training.run()
    weights = np.concatenate([w.ravel() for w in training.decoder.get_weights()])
    np.savez(Path(folder) / f"end-{workers.index}.npz", losses=losses, weights=weights, history=history["loss"])
except WorkerError as error:
    print(f"error: {error}", file=sys.stderr)
    os._exit(2)
