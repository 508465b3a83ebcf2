"""The trained model behind its queue, and the processes that read photos."""

import threading
import time
from pathlib import Path

from flask import Flask

from captioning.batching import CaptionQueue
from captioning.generator import CaptionGenerator
from captioning.image_workers import ImageWorkers
from web.metrics import Metrics, log_event


def add_model(app: Flask, generator: CaptionGenerator | None) -> None:
    """Load the model, unless it is given, warm it up, and start the processes that read photos.

    Raises:
        ArtifactError: the model cannot be loaded.
    """
    metrics = Metrics()
    app.extensions.update(images=ImageWorkers(), metrics=metrics, stopping=threading.Event())
    try:
        app.extensions["captions"] = make_queue(app, generator) if generator else load_queue(app)
    except BaseException:
        app.extensions["images"].close()
        raise
    metrics.waiting.set_function(lambda: len(app.extensions["captions"]))


def make_queue(app: Flask, generator: CaptionGenerator) -> CaptionQueue:
    config = app.config
    return CaptionQueue(
        generator,
        beam_width=config["BEAM_WIDTH"],
        max_waiting=config["QUEUE_LENGTH"],
        on_batch=app.extensions["metrics"].batch,
    )


def load_queue(app: Flask) -> CaptionQueue:
    """Load the model in ``ARTIFACTS_DIR`` and run it once.

    If the folder is a symbolic link, the model uses the folder that it points to now, even if the link changes later.
    """
    captions = make_queue(app, CaptionGenerator.load(Path(app.config["ARTIFACTS_DIR"]).resolve()))
    try:
        captions.warm_up()
    except BaseException:
        captions.close()
        raise
    return captions


def reload_in_background(app: Flask) -> threading.Event:
    """Start a thread that reloads the model whenever the returned event is set."""
    wanted = threading.Event()

    def work() -> None:
        while wanted.wait():
            wanted.clear()
            reload_model(app)

    threading.Thread(target=work, name="reload", daemon=True).start()
    return wanted


def reload_model(app: Flask) -> None:
    """Load the model in ``ARTIFACTS_DIR`` again and use it for all later photos.

    The old model serves until then. It stays if the new one cannot be loaded or fails to caption.
    """
    reloads, start = app.extensions["metrics"].reloads, time.perf_counter()
    try:
        captions = load_queue(app)
    except Exception as error:
        reloads.labels("failed").inc()
        return log_event("model not reloaded, the old one serves", error=str(error) or repr(error))
    old, app.extensions["captions"] = app.extensions["captions"], captions
    reloads.labels("ok").inc()
    log_event("model reloaded", seconds=round(time.perf_counter() - start, 1))
    time.sleep(app.config["REQUEST_TIMEOUT"])  # a request that began before may still submit a photo to the old one
    old.close()
