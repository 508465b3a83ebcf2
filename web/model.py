"""The trained model behind its queue, and the processes that read photos."""

import threading

from flask import Flask

from captioning.batching import CaptionQueue
from captioning.generator import CaptionGenerator
from captioning.image_workers import ImageWorkers
from web.metrics import Metrics


def add_model(app: Flask, generator: CaptionGenerator | None) -> None:
    """Load the model, unless it is given, warm it up, and start the processes that read photos.

    Raises:
        ArtifactError: the model cannot be loaded.
    """
    config, metrics = app.config, Metrics()
    images = ImageWorkers()  # they start while the model loads
    captions = CaptionQueue(
        generator or CaptionGenerator.load(config["ARTIFACTS_DIR"]),
        beam_width=config["BEAM_WIDTH"],
        alternatives=config["BEAM_WIDTH"],
        max_batch=config["MAX_BATCH"],
        max_wait=config["BATCH_WAIT"],
        max_waiting=config["QUEUE_LENGTH"],
        on_batch=metrics.batch,
    )
    if generator is None:
        captions.warm_up()
    metrics.waiting.set_function(lambda: len(captions))
    app.extensions.update(images=images, captions=captions, metrics=metrics, stopping=threading.Event())
