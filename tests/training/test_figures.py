"""Figures."""

import numpy as np
import pytest

from captioning.training.figures import plot_attention, plot_captions, plot_history, plot_reliability
from captioning.training.log import joined

PHOTO = np.zeros((40, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("keys", "axes"), [(["loss", "val_loss", "val_CIDEr"], 3), (["loss"], 1), (["val_CIDEr", "rate"], 1), ([], 0)]
)
def test_plot_history(keys, axes, tmp_path):
    figure = plot_history({key: [3.0, 2.0, 1.5] for key in keys})
    assert len(figure.axes) == axes
    figure.savefig(tmp_path / "history.png")


def test_plot_history_draws_each_curve():
    figure = plot_history({"loss": [3, 2], "val_loss": [3, 2.5], "val_CIDEr": [10]})
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "validation loss", "validation CIDEr"]
    assert [len(line.get_xdata()) for axes in figure.axes for line in axes.lines] == [2, 2, 1]


def test_plot_history_marks_the_stages(tmp_path):
    stages = {"decoder": 3, "fine-tuning": 2, "de self-critical": 1}
    values = {"loss": [1.0, 2, 3], "val_loss": [3.0, 2, 1], "val_CIDEr": [4.0, 5, 6]}
    history = joined({stage: {key: v[:epochs] for key, v in values.items()} for stage, epochs in stages.items()})
    assert history["stage"] == [stage for stage, epochs in stages.items() for _ in range(epochs)]
    figure = plot_history(history)
    losses, scores = figure.axes
    assert losses.get_ylabel() == "validation loss"
    assert [list(line.get_xdata()) for line in scores.lines] == [[1, 2, 3], [4, 5], [6]]
    assert [list(line.get_ydata()) for line in scores.lines] == [[4, 5, 6], [4, 5], [4]]
    [top] = scores.child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == list(stages)
    assert list(top.get_xticks()) == [1, 4, 6]
    figure.savefig(tmp_path / "history.png")


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
