"""Figures: training curves, attention, calibration, captions.

They are plain ``matplotlib.figure.Figure`` objects; ``%matplotlib inline`` lets a notebook show them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from captioning.training.evaluation import calibration_bins


def plot_history(history: Mapping[str, Sequence]) -> Figure:
    """Training loss, validation loss and validation CIDEr by epoch: those that ``history`` has, a panel for each.

    The losses have panels of their own because they differ in kind: by label smoothing and dropout, and in
    self-critical training and distillation altogether. If ``history`` is that of all stages (`joined`), the training
    loss is left out and the stages are marked.
    """
    stages = history.get("stage", ())
    labels = {"loss": "training loss", "val_loss": "validation loss", "val_CIDEr": "validation CIDEr"}
    panels = [key for key in labels if history.get(key) and not (key == "loss" and stages)]
    figure = Figure(figsize=((5.5 if stages else 4) * max(len(panels), 1), 3.5), layout="constrained")
    for i, key in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), i, xlabel="epoch", ylabel=labels[key])
        epochs = range(1, len(history[key]) + 1)
        marks = {}
        for stage, group in groupby(epochs, lambda epoch: stages[epoch - 1] if stages else ""):
            of_stage = list(group)
            axes.plot(of_stage, [history[key][epoch - 1] for epoch in of_stage], marker=".")
            marks[of_stage[0]] = stage
        axes.locator_params("x", integer=True)
        if stages:
            top = axes.secondary_xaxis("top")
            top.set_xticks(list(marks), list(marks.values()), rotation=60, ha="left", fontsize=8)
    return figure


def plot_attention(image: np.ndarray, words: Sequence[str], maps: Sequence[np.ndarray] | None) -> Figure:
    """The photo, then for each word the photo, brightest where the attention for that word is greatest.

    Args:
        image: (H, W, 3) uint8.
        words: the caption.
        maps: one attention map (rows, columns) per word, or None for a decoder without attention, which shows the photo
            alone.
    """
    spotlight = LinearSegmentedColormap.from_list("spotlight", [(0, 0, 0, 0.7), (0, 0, 0, 0)])
    panels = [(" ".join(words), None)] + (list(zip(words, maps, strict=True)) if maps is not None else [])
    figure, all_axes = _gallery(len(panels), columns=5)
    height, width = image.shape[:2]
    for axes, (title, weights) in zip(all_axes, panels, strict=True):
        axes.imshow(image)
        axes.set_xlabel(textwrap.fill(title, 28))
        if weights is not None:
            axes.imshow(weights, cmap=spotlight, vmin=0, vmax=np.max(weights), interpolation="bilinear",
                        extent=(-0.5, width - 0.5, height - 0.5, -0.5))  # fmt: skip
    return figure


def plot_reliability(confidence: Sequence[float], truth: Sequence[float]) -> Figure:
    """The mean of ``truth`` over that of ``confidence``, in bins of equal size. The diagonal is perfect."""
    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.add_subplot(
        xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="agreement with people", aspect="equal"
    )
    axes.plot([0, 1], [0, 1], color="gray", linestyle="dotted")
    means = [(c.mean(), t.mean()) for c, t in calibration_bins(confidence, truth)]
    axes.plot(*zip(*means, strict=True), marker="o")
    return figure


def plot_captions(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """A gallery of photos (H, W, 3) uint8, each with its caption, wrapped, below it."""
    figure, all_axes = _gallery(len(images), columns=4)
    for axes, image, title in zip(all_axes, images, titles, strict=True):
        axes.imshow(image)
        axes.set_xlabel("\n".join(textwrap.fill(line, 32) for line in title.splitlines()))
    return figure


def _gallery(count: int, columns: int) -> tuple[Figure, list]:
    columns = max(min(columns, count), 1)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.8 * columns, 3 * max(rows, 1)), layout="constrained")
    all_axes = [figure.add_subplot(rows, columns, i + 1, xticks=[], yticks=[]) for i in range(count)]
    for axes in all_axes:
        axes.spines[:].set_visible(False)
    return figure, all_axes
