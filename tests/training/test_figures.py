"""Figures."""

import numpy as np
import pytest

from captioning.training.figures import plot_attention, plot_captions, plot_history, plot_reliability

PHOTO = np.zeros((40, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("keys", "axes"), [(["loss", "val_loss", "val_CIDEr"], 2), (["loss"], 1), (["val_CIDEr", "rate"], 1), ([], 0)]
)
def test_plot_history(keys, axes, tmp_path):
    figure = plot_history({key: [3.0, 2.0, 1.5] for key in keys})
    assert len(figure.axes) == axes
    figure.savefig(tmp_path / "history.png")


def test_plot_history_draws_each_curve():
    losses, scores = plot_history({"loss": [3, 2], "val_loss": [3, 2.5], "val_CIDEr": [10]}).axes
    assert [len(line.get_xdata()) for line in losses.lines] == [2, 2]
    assert (losses.get_ylabel(), scores.get_ylabel()) == ("loss", "CIDEr")


def test_plot_attention(tmp_path):
    words = ["a", "black", "dog", "runs", "through", "tall", "grass"]
    figure = plot_attention(PHOTO, words, [np.full((7, 7), 1 / 49)] * 7)
    assert len(figure.axes) == 1 + len(words)
    assert [axes.get_xlabel() for axes in figure.axes[1:]] == words
    assert [len(axes.images) for axes in figure.axes] == [1] + [2] * 7
    assert figure.axes[1].images[1].get_extent() == figure.axes[1].images[0].get_extent()
    figure.savefig(tmp_path / "attention.png")
    assert len(plot_attention(PHOTO, words, None).axes) == 1
    with pytest.raises(ValueError):
        plot_attention(PHOTO, words, [np.zeros((7, 7))])


def test_plot_captions(tmp_path):
    figure = plot_captions([PHOTO, PHOTO[:20]] * 3, ["a boy in a red shirt jumps into the pool\nCIDEr 80"] * 6)
    assert len(figure.axes) == 6
    assert figure.axes[0].get_xlabel() == "a boy in a red shirt jumps into\nthe pool\nCIDEr 80"
    figure.savefig(tmp_path / "captions.png")


def test_plot_reliability(tmp_path):
    random = np.random.default_rng(0)
    confidence = random.uniform(size=20000)
    figure = plot_reliability(confidence, random.uniform(size=20000) < confidence)
    figure.savefig(tmp_path / "figure.png")
    x, y = figure.axes[0].lines[1].get_data()
    np.testing.assert_allclose(x, y, atol=0.05)
