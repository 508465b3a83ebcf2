"""Scores of captions and their table."""

import math
import shutil
import warnings

import numpy as np
import pytest
from captions import CAPTIONS, REFERENCES

from captioning.training import evaluation
from captioning.training.evaluation import (
    COLUMNS,
    agreement,
    calibration_error,
    cider,
    interval,
    per_image_cider,
    repeats,
    score_captions,
    score_table,
    tokenize,
)


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize(
    ("caption", "tokens"),  # what COCO's PTBTokenizer gives
    [
        ("A tri-colored dog's toy , isn't it ?", "a tri-colored dog 's toy is n't it"),
        ("A tri-colored dog's toy, isn't it?", "a tri-colored dog 's toy is n't it"),
        ("Two dogs' toys; one : broken -- sad - ...", "two dogs toys one broken sad"),
        ('He said "hello." She can\'t hear', "he said hello she ca n't hear"),
        ("A dog runs. A boy on 3rd St. watches", "a dog runs a boy on 3rd st. watches"),
        ("A man (left) at 10:30 with 2,000 people", "a man -lrb- left -rrb- at 10:30 with 2,000 people"),
        ("“quoted” text ‘single’ it’s … a café — yes", "quoted text single it 's a café yes"),
        ("a sign 'stop here' on the boy 's shirt", "a sign stop here on the boy 's shirt"),
        ("I cannot , gonna", "i can not gon na"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_tokenize(caption, tokens):
    assert tokenize(caption) == tokens.split()


def test_perfect_captions(no_java):
    captions = {name: references[0] for name, references in REFERENCES.items()}
    references = {name: [references[0].upper()] * 5 for name, references in REFERENCES.items()}
    with pytest.warns(UserWarning, match="Java"):
        scores = score_captions(captions, references)
    for name in [*COLUMNS[:8], "ROUGE-L"]:
        assert scores[name] == pytest.approx(100, abs=1e-4), name
    assert scores["CIDEr"] == pytest.approx(1000)  # ten times a cosine of one
    assert scores["distinct"] == 4
    assert scores["mean length"] == (7 + 10 + 7 + 6) / 4


def test_bleu_by_hand(no_java):
    """1-grams: "the" counts twice, as in a reference. 4-grams: none, smoothed to 0.1. There is no brevity penalty: the
    caption's five words are as near to four as to six, and the shorter reference counts."""
    with pytest.warns(UserWarning):
        scores = score_captions({"a": "the cat the the mat"}, {"a": ["the cat is on the mat", "on the the mat !"]})
    precisions = [4 / 5, 3 / 4, 1 / 3, 0.1 / 2]
    for n in range(1, 5):
        by_hand = 100 * math.prod(precisions[:n]) ** (1 / n)
        assert scores[f"NLTK BLEU-{n}"] == pytest.approx(by_hand)
        if n < 4:  # COCO's scorer does not smooth
            assert scores[f"BLEU-{n}"] == pytest.approx(by_hand, abs=1e-4)
    assert scores["BLEU-4"] < 0.1


def test_empty_caption_scores_nothing(no_java):
    with pytest.warns(UserWarning):
        scores = score_captions(CAPTIONS | dict.fromkeys(CAPTIONS, ""), REFERENCES)
    assert {scores[name] for name in COLUMNS if name not in ("METEOR", "distinct")} == {0}


def test_hallucinated_objects(no_java):
    captions = CAPTIONS | {"men.jpg": "two hikers and a puppy on a hill", "cat.jpg": "a kitten on a board"}
    with pytest.warns(UserWarning):
        scores = score_captions(captions, REFERENCES)
    # Objects: person, water / dog / person, dog!, mountain / cat, board!
    assert scores["CHAIR-s"] == 50
    assert scores["CHAIR-i"] == pytest.approx(100 * 2 / 8)


@pytest.mark.parametrize(
    ("caption", "repeated"),
    [("a dog dog runs", True), ("a man and a man", True), ("a man and a dog and", False), ("", False)],
)
def test_repeats(caption, repeated):
    assert repeats(caption.split()) == repeated


def test_agreement_counts_rare_words_more():
    training = {"1": ["a dog"], "2": ["a cat"], "3": ["a dog runs"]}
    half = {"x": ["A dog ."]}
    assert agreement({"x": "a dog"}, half, training) == {"x": 1}
    rare_wrong, common_wrong = (agreement({"x": text}, half, training)["x"] for text in ("a dog cat", "a dog a"))
    a, dog, cat = (math.log(4 / n) for n in (3, 2, 1))
    assert rare_wrong == pytest.approx((a + dog) / (a + dog + cat))
    assert common_wrong == 1
    assert agreement({"x": ""}, half, training) == {"x": 0}


def test_calibration_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(size=20000)
    right = random.uniform(size=20000) < confidence
    assert calibration_error(confidence, right) < 0.02
    assert calibration_error(np.clip(confidence + 0.2, 0, 1.2), right) == pytest.approx(0.2, abs=0.02)


def test_cider_alone_and_by_image(no_java):
    by_image = per_image_cider(CAPTIONS, REFERENCES)
    assert list(by_image) == list(CAPTIONS)
    assert min(by_image, key=by_image.get) == "cat.jpg"
    assert np.mean(list(by_image.values())) == pytest.approx(cider(CAPTIONS, REFERENCES))
    with pytest.warns(UserWarning):
        assert score_captions(CAPTIONS, REFERENCES)["CIDEr"] == pytest.approx(cider(CAPTIONS, REFERENCES))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="METEOR needs Java")
def test_meteor_with_java(monkeypatch):
    """Slow: it starts Java."""
    started = []
    popen = evaluation.subprocess.Popen
    monkeypatch.setattr(evaluation.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setenv("LC_ALL", "C")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_captions({"a": "a café ||| dog runs", "b": ""}, {"a": ["A café ||| dog runs ."], "b": ["a cat"]})
    assert 0 < scores["METEOR"] < 100
    assert list(scores) == COLUMNS
    assert started[0].poll() is not None and started[0].stdin.closed and started[0].stdout.closed


def test_meteor_without_java(no_java):
    with pytest.warns(UserWarning, match="METEOR is skipped: it needs Java"):
        scores = score_captions(CAPTIONS, REFERENCES)
    assert list(scores) == [name for name in COLUMNS if name != "METEOR"]


def test_meteor_with_a_java_that_does_not_start(tmp_path, monkeypatch):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'No Java runtime present' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="METEOR is skipped"):
        assert "METEOR" not in score_captions(CAPTIONS, REFERENCES)


@pytest.mark.parametrize("score", [score_captions, cider, per_image_cider])
def test_missing_captions_and_references(score):
    with pytest.raises(ValueError, match="bird.jpg has no reference"):
        score(CAPTIONS | {"bird.jpg": "a bird"}, REFERENCES)
    with pytest.raises(ValueError, match="bird.jpg has no reference"):
        score(CAPTIONS | {"bird.jpg": "a bird"}, REFERENCES | {"bird.jpg": [" ."]})
    with pytest.raises(ValueError, match="bird.jpg has no caption"):
        score(CAPTIONS, REFERENCES | {"bird.jpg": ["a bird"]})
    with pytest.raises(ValueError, match="no captions"):
        score({}, {})


def test_score_table():
    table = score_table({"greedy": {"BLEU-1": 60.126, "distinct": 7.0}, "beam 3": {"METEOR": 20.5, "distinct": 6.0}})
    assert list(table.index) == ["greedy", "beam 3"]
    assert list(table.columns) == COLUMNS
    assert table.loc["greedy", "BLEU-1"] == 60.13
    assert list(table["METEOR"]) == ["skipped", 20.5]
    assert "7" in table.to_string().split("\n")[1].split()


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(1).normal(60, 30, 1000)
    half = 1.96 * values.std() / math.sqrt(1000)
    np.testing.assert_allclose(interval(values), (values.mean() - half, values.mean() + half), atol=0.2)
