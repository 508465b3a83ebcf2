"""Teacher forcing and distillation, with a tiny decoder.

Slow: it trains with TensorFlow.
"""

import encoders
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scenes import draw_dataset
from training_runs import CAPTIONS, TOKENIZER, WORDS, new_decoder, new_features, new_run

from captioning.network.decoder import build_decoder
from captioning.text import Tokenizer
from captioning.training.datasets import load_dataset
from captioning.training.features import Features
from captioning.training.self_critical import SelfCriticalTraining
from captioning.training.teacher_forcing import Distillation, Training, caption_batches, caption_loss

pytestmark = pytest.mark.slow


def test_batches_hold_every_image_once_and_its_captions():
    batches = caption_batches(CAPTIONS, TOKENIZER, 8, seed=0, epoch=0)
    assert sorted(n for names, _ in batches for n in names) == sorted(CAPTIONS)
    for names, tokens in batches:
        assert tokens.shape[:2] == (len(names), 2)
        assert (tokens.shape[2] - 1) % 4 == 0
        for name, rows in zip(names, tokens, strict=True):
            assert [TOKENIZER.decode(row[1:]) for row in rows] == CAPTIONS[name]


def test_batches_depend_only_on_seed_and_epoch():
    def order(seed, epoch):
        return [n for names, _ in caption_batches(CAPTIONS, TOKENIZER, 8, seed, epoch) for n in names]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_loss_is_the_mean_cross_entropy_without_padding():
    logits = np.log([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]]).astype("float32")
    targets, weights = np.array([[0, 1, 2]]), np.array([[1.0, 1.0, 0.0]], "float32")
    loss = float(caption_loss(logits, targets, weights))
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2)
    smooth = float(caption_loss(logits, targets, weights, label_smoothing=0.3))
    truth = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert smooth == pytest.approx(-(truth * logits[0, :2]).sum() / 2, rel=1e-5)


def test_padding_has_no_gradient():
    logits = tf.constant(np.random.default_rng(0).normal(size=(1, 3, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = caption_loss(logits, np.array([[1, 2, 3]]), np.array([[1.0, 0.5, 0.0]], "float32"), 0.1)
    gradient = ops.convert_to_numpy(tape.gradient(loss, logits))
    assert (gradient[0, 2] == 0).all()
    assert (gradient[0, :2] != 0).all()


def test_training_learns_and_keeps_the_best_epoch(tmp_path):
    """Slow: it compiles and trains a decoder."""
    training = new_run(Training, tmp_path, epochs=20, label_smoothing=0.0)
    seen = []
    history = training.run(lambda epoch, values, captions: seen.append((values["val_CIDEr"], captions)))
    assert {len(v) for v in history.values()} == {20}
    assert history["loss"][-1] < history["loss"][0] / 2
    scores, captions = training.validate()
    assert scores["val_CIDEr"] == pytest.approx(max(history["val_CIDEr"]))
    assert (max(history["val_CIDEr"]), captions) in seen
    for name, caption in captions.items():
        assert WORDS[int(name[:-4]) % 3] in caption


@pytest.mark.parametrize("cls", [Training, SelfCriticalTraining])
def test_training_uses_all_views_and_validates_on_the_whole_photo(cls, uncompiled, tmp_path):
    """Slow: two compilations."""
    features = new_features()
    other = Features(features.array + 100, features.rows, {})
    training = new_run(cls, tmp_path, views=[other])
    used = np.concatenate([images for images, *_ in training.batches(0)])
    assert len(used) == 24
    assert 0 < (used.max((1, 2)) > 50).sum() < 24
    without_views = new_run(Training, tmp_path, training.decoder)
    assert training.validate()[0]["val_loss"] == without_views.validate()[0]["val_loss"]


def test_other_settings_captions_features_or_weights_start_from_the_beginning(uncompiled, tmp_path, monkeypatch):
    """Slow: six runs."""
    epochs = []

    def read(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    monkeypatch.setattr(Training, "_train_step", lambda *_: 0.0)
    monkeypatch.setattr(Training, "validate", lambda _: ({"val_loss": 0.0, "val_CIDEr": 0.0}, {}))

    def new(decoder=None, **settings):
        return new_run(Training, tmp_path / "stage", decoder, epochs=1, batch_size=12, **settings)

    def run(*decoder, **settings):
        new(*decoder, **settings).run(lambda epoch, *_: epochs.append(epoch))

    features = new_features()
    run()
    first = read(tmp_path / "stage")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "validate", lambda _: 1 / 0)  # interrupted before the end of the first epoch
        with pytest.raises(ZeroDivisionError):
            new(learning_rate=1e-2).run()
    assert read(tmp_path / "stage") == first and list(tmp_path.iterdir()) == [tmp_path / "stage"]
    run(learning_rate=1e-2)
    run(features=Features(features.array + 1, features.rows, {}))
    run(features=Features(features.array, features.rows, {}, sizes=1))
    monkeypatch.setitem(CAPTIONS, "0.jpg", ["red ball"])
    run()
    run(new_decoder(seed=1))
    assert epochs == [0] * 6
    run(new_decoder(seed=1))
    assert epochs == [0] * 6, "the same settings"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage", *(f"stage-before-{i}" for i in range(1, 6))]
    assert read(tmp_path / "stage-before-1") == first, "nothing is lost"


def test_a_stage_without_epochs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch, not 0"):
        new_run(Training, tmp_path, epochs=0)


def test_a_stage_without_captions_to_validate_with_is_refused(tmp_path):
    with pytest.raises(ValueError, match="in the validation split"):
        new_run(Training, tmp_path, validation={})


def test_with_one_validation_photo_the_last_epoch_counts(uncompiled, tmp_path):
    """CIDEr of a single photo is always 0. Slow: two epochs."""
    training = new_run(Training, tmp_path, epochs=2, validation={"24.jpg": CAPTIONS["24.jpg"]})
    history = training.run()
    assert history["val_CIDEr"] == [0, 0]
    assert training.validate()[0]["val_loss"] == pytest.approx(history["val_loss"][1])
    assert history["val_loss"][1] != history["val_loss"][0]


def test_fine_tuning_changes_every_block_of_the_encoder(uncompiled, tiny_encoder, tmp_path):
    """Slow: it trains an encoder."""
    dataset = load_dataset(draw_dataset(tmp_path, images=10, size=64))
    tokenizer = Tokenizer.fit((c for cs in dataset.captions["train"].values() for c in cs), 1)
    encoder = encoders.tiny_encoder()
    decoder = build_decoder("attention", len(tokenizer), encoder.regions, encoder.depth, units=16)
    before = {w.path: ops.convert_to_numpy(w) for w in encoder.trainable_variables}
    training = Training(
        decoder, tokenizer, dataset.captions["train"], dataset.captions["validation"], tmp_path / "run", epochs=1,
        encoder=encoder, image_paths=dataset.image_paths, encoder_learning_rate=1e-3,
        batch_size=5,  # so that one batch is shorter
    )  # fmt: skip
    training.run()
    changed = {p for p, w in before.items() if (w != ops.convert_to_numpy(weight(encoder, p))).any()}
    for layer in ("conv1", *(f"conv_{kind}_{n}" for kind in ("dw", "pw") for n in range(1, 14))):
        assert any(f"{layer}/" in path for path in changed), layer
    again = encoders.tiny_encoder()
    again.load_weights(tmp_path / "run" / "best1.weights.h5")  # as a finished run does when it is run again
    np.testing.assert_array_equal(weight(again, "conv1/kernel"), weight(encoder, "conv1/kernel"))


def weight(encoder: keras.Model, path: str):
    return next(w for w in encoder.trainable_variables if w.path.endswith(path))


def test_distillation_makes_a_decoder_similar_to_its_teacher(tmp_path):
    """Slow: two runs."""
    teacher = new_run(Training, tmp_path / "teacher")
    teacher.run()
    student = new_run(
        lambda *arguments, **settings: Distillation(teacher.decoder, *arguments, **settings),
        tmp_path / "student",
        new_decoder(seed=1),
        epochs=6,
    )
    history = student.run()
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert student.settings["teacher"] != student.settings["decoder"]
