import numpy as np
import pytest
from keras import ops

from captioning.network.decoder import build_decoder
from captioning.encoder import Encoder, Features
from captioning.network.search import make_search
from captioning.text import Tokenizer
from captioning.training import (
    Distillation,
    SelfCriticalTraining,
    Training,
    caption_batches,
    caption_loss,
    match_length,
)
from scenes import draw_dataset

WORDS = "red green blue".split()
CAPTIONS = {f"{i}.jpg": [f"a {WORDS[i % 3]} ball", f"there is a {WORDS[i % 3]} ball here"] for i in range(30)}
TOKENIZER = Tokenizer.fit([c for cs in CAPTIONS.values() for c in cs], 1)


@pytest.fixture
def features():
    """The colour is in the features."""
    random = np.random.default_rng(0)
    array = np.stack([np.eye(3)[i % 3] + random.normal(0, 0.1, (4, 3)) for i in range(30)]).astype("float16")
    return Features(array, {n: i for i, n in enumerate(CAPTIONS)}, {})


def make(cls, folder, features, decoder=None, **settings):
    train = {n: c for n, c in CAPTIONS.items() if int(n[:-4]) < 24}
    validation = {n: c for n, c in CAPTIONS.items() if n not in train}
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 2e-2} | settings
    return cls(decoder or new_decoder(), TOKENIZER, train, validation, folder, features=features, **settings)


def new_decoder(seed=0):
    import keras

    keras.utils.set_random_seed(seed)
    return build_decoder("attention", len(TOKENIZER), 4, 3, units=16, dropout=0.0, input_dropout=0.0)


def test_batches_hold_every_image_once_and_its_captions():
    batches = caption_batches(CAPTIONS, TOKENIZER, 8, seed=0, epoch=0, captions_per_image=2)
    assert sorted(n for names, _ in batches for n in names) == sorted(CAPTIONS)
    for names, tokens in batches:
        assert tokens.shape[:2] == (len(names), 2) and (tokens.shape[2] - 1) % 4 == 0
        for name, rows in zip(names, tokens):
            assert [TOKENIZER.decode(row[1:]) for row in rows] == CAPTIONS[name]


def test_batches_depend_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return [n for names, _ in caption_batches(CAPTIONS, TOKENIZER, 8, seed, epoch) for n in names]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_loss_is_the_mean_cross_entropy_of_what_is_not_padding():
    logits = np.log([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]]).astype("float32")
    targets, weights = np.array([[0, 1, 2]]), np.array([[1.0, 1.0, 0.0]], "float32")
    loss = float(caption_loss(logits, targets, weights))
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2)
    smooth = float(caption_loss(logits, targets, weights, label_smoothing=0.3))
    truth = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert smooth == pytest.approx(-(truth * logits[0, :2]).sum() / 2, rel=1e-5)


def test_padding_has_no_gradient():
    import tensorflow as tf

    logits = tf.constant(np.random.default_rng(0).normal(size=(1, 3, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = caption_loss(logits, np.array([[1, 2, 3]]), np.array([[1.0, 0.5, 0.0]], "float32"), 0.1)
    gradient = ops.convert_to_numpy(tape.gradient(loss, logits))
    assert (gradient[0, 2] == 0).all() and (gradient[0, :2] != 0).all()


def test_it_learns_and_keeps_the_best(features, tmp_path):
    training = make(Training, tmp_path, features, epochs=20, label_smoothing=0.0)
    history = training.run()
    assert {len(v) for v in history.values()} == {20}
    assert history["loss"][-1] < history["loss"][0] / 2
    assert training.validate()["val_CIDEr"] == pytest.approx(max(history["val_CIDEr"]))
    for name, caption in training.captions.items():
        assert WORDS[int(name[:-4]) % 3] in caption


@pytest.mark.parametrize("cls", [Training, SelfCriticalTraining])
def test_it_trains_on_all_views_and_validates_on_the_whole_photo(cls, features, tmp_path):
    other = Features(features.array + 100, features.rows, {})
    training = make(cls, tmp_path, features, views=[other])
    seen = np.concatenate([looked for looked, *_ in training.batches(0)])
    assert len(seen) == 24
    assert 0 < (seen.max((1, 2)) > 50).sum() < 24
    assert (
        training.validate()["val_loss"] == make(Training, tmp_path, features, training.decoder).validate()["val_loss"]
    )


@pytest.mark.parametrize("cls", [Training, SelfCriticalTraining])
def test_an_interrupted_run_ends_where_a_whole_one_does(cls, features, tmp_path):
    whole = make(cls, tmp_path / "whole", features).run()

    def interrupt(epoch, values):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(cls, tmp_path / "cut", features).run(interrupt)
    epochs = []
    resumed = make(cls, tmp_path / "cut", features).run(lambda epoch, _: epochs.append(epoch))
    assert epochs == [2, 3]
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-3)


def test_other_settings_start_anew(features, tmp_path):
    make(Training, tmp_path, features, epochs=1).run()
    epochs = []
    make(Training, tmp_path, features, epochs=2).run(lambda epoch, _: epochs.append(epoch))
    assert epochs == [0, 1]
    epochs.clear()
    make(Training, tmp_path, features, new_decoder(seed=1), epochs=2).run(lambda epoch, _: epochs.append(epoch))
    assert epochs == [0, 1]


def test_self_critical_training_raises_the_reward(features, tmp_path):
    decoder = new_decoder()
    make(Training, tmp_path / "first", features, decoder, epochs=3, learning_rate=5e-3).run()

    def mean_reward():
        samples = ops.convert_to_numpy(training.sample(features.array[:24]))
        captions = [TOKENIZER.decode(row) for row in samples.reshape(-1, samples.shape[-1])]
        return training.reward.reward([f"{i}.jpg" for i in range(24) for _ in range(5)], captions).mean()

    training = make(SelfCriticalTraining, tmp_path / "second", features, decoder, epochs=8)
    before = mean_reward()
    training.run()
    assert mean_reward() > before


def test_fine_tuning_changes_every_stage_of_the_encoder(tmp_path):
    from captioning.training.datasets import load_dataset

    dataset = load_dataset(draw_dataset(tmp_path, images=20, size=32))
    tokenizer = Tokenizer.fit((c for cs in dataset.captions["train"].values() for c in cs), 1)
    encoder = Encoder("resnet50", image_size=32)
    decoder = build_decoder("attention", len(tokenizer), encoder.regions, encoder.depth, units=16)
    before = {w.path: ops.convert_to_numpy(w) for w in encoder.trainable_variables}
    training = Training(
        decoder, tokenizer, dataset.captions["train"], dataset.captions["validation"], tmp_path / "run", epochs=1,
        encoder=encoder, image_paths=dataset.image_paths, encoder_learning_rate=1e-3, batch_size=3,  # one short batch among the others
    )  # fmt: skip
    training.run()
    changed = {p for p, w in before.items() if (w != ops.convert_to_numpy(_named(encoder, p))).any()}
    for stage in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        assert any(stage in path for path in changed), stage
    fresh = Encoder("resnet50", image_size=32)
    fresh.load_weights(tmp_path / "run" / "best1.weights.h5")  # as a finished run does when it is run again
    np.testing.assert_array_equal(_named(fresh, "conv1_conv/kernel"), _named(encoder, "conv1_conv/kernel"))


def _named(encoder, path):
    return next(w for w in encoder.trainable_variables if w.path.endswith(path))


def test_distillation_brings_a_decoder_close_to_its_teacher(tmp_path, features):
    teacher = make(Training, tmp_path / "teacher", features)
    teacher.run()
    student = new_decoder(seed=1)
    training = Distillation(
        teacher.decoder,
        student,
        TOKENIZER,
        dict(list(CAPTIONS.items())[:24]),
        dict(list(CAPTIONS.items())[24:]),
        tmp_path / "student",
        6,
        features=features,
        batch_size=8,
        learning_rate=2e-2,
    )
    history = training.run()
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert training.settings["teacher"] != training.settings["decoder"]


def test_captions_are_made_as_long_as_people_s_but_for_a_word(features):
    decoder = new_decoder()
    decoder.word_bias.assign(1.5 * (np.arange(len(TOKENIZER)) == TOKENIZER.end))  # ends at once

    def mean_length():
        return np.mean((make_search(decoder, TOKENIZER)(features.array, 3).tokens[:, 0] > TOKENIZER.end).sum(1))

    assert mean_length() < 2
    people = np.mean([len(text.split()) for texts in CAPTIONS.values() for text in texts])
    assert match_length(decoder, TOKENIZER, features, CAPTIONS) == mean_length() >= people - 1
    before = decoder.word_bias.numpy()
    match_length(decoder, TOKENIZER, features, CAPTIONS)
    np.testing.assert_array_equal(decoder.word_bias, before)  # long enough already
