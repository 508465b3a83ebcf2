"""The three notebooks, run headless on scenes that the test draws: a tiny model must really learn.

Slow: it trains a model and converts it.
"""

import json
import os
import shutil

import papermill
import pytest
from notebooks import NAMES, ROOT, SHORTER, WITHOUT_JAVA, only_default_width, run
from scenes import GERMAN_WORDS, draw_dataset

from captioning.artifacts import EXPORTED, read_pickle, write_manifest, write_pickle
from captioning.network import backend, export, search
from captioning.training import languages
from generate_captions import CaptionGenerator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which all three notebooks have run, for 192 training photos."""
    folder = tmp_path_factory.mktemp("notebooks")
    dataset = draw_dataset(folder / "scenes")
    captions = dataset / "Flickr8k_text" / "Flickr8k.token.txt"  # a training photo has only four
    captions.write_text("".join(line for line in captions.open() if not line.startswith("scene_0100.jpg#4")))
    paths = {"DATASET": str(dataset), "ARTIFACTS": str(folder / "artifacts")}
    weights = {"ENCODER_WEIGHTS": str(ROOT / "artifacts" / "encoder.weights.h5")}
    run("01-data-preparation", folder, IMAGE_SIZE=64, MINIMUM_COUNT=1, **paths, **weights)
    small = {"UNITS": 64, "NARROW_UNITS": 48, "BATCH_SIZE": 12, "LEARNING_RATE": 5e-3}
    epochs = {"EPOCHS": 7, "FINE_TUNING_EPOCHS": 1, "DISTILLATION_EPOCHS": 2, "SELF_CRITICAL_EPOCHS": 1, "VIEWS": 1}
    run("02-model-training", folder, SHORTER, **small, **epochs, **paths, **weights)
    run("03-model-evaluation", folder, WITHOUT_JAVA, BEAM_WIDTHS=[3], **paths)
    return folder


def test_the_tiny_model_learns(trained):
    evaluation = json.loads((trained / "artifacts" / "evaluation.json").read_text())
    assert evaluation["split"] == "test" and evaluation["images"] == 24
    assert evaluation["scores"]["beam 3"]["BLEU-4"] > 50


@pytest.mark.parametrize("language", ["en", "de"])
def test_it_captions_what_it_has_never_seen(trained, language):
    generator = CaptionGenerator.load(trained / "artifacts")
    captions = read_pickle(trained / "artifacts" / "captions.pkl")["validation"]
    photos = [trained / "scenes" / "Flicker8k_Dataset" / name for name in captions]
    right = 0
    for result, truths in zip(generator.caption_batch(photos, language=language), captions.values()):
        colour, shape = truths[0].split()[1:3]  # "A red circle on …"
        if language == "de":
            colour, shape = GERMAN_WORDS[colour], GERMAN_WORDS[shape]
        right += colour in result.text and shape in result.text
    assert right > 0.6 * len(photos)


def test_it_learns_german_too(trained):
    generator = CaptionGenerator.load(trained / "artifacts")
    assert generator.languages == ["en", "de"]
    assert set(generator.config["confidence"]) == {"en", "de"}
    scores = json.loads((trained / "artifacts" / "evaluation.json").read_text())["languages"]["de"]
    assert scores["images"] == 24 and scores["scores"]["BLEU-4"] > 50


def test_notebook_01_run_again_leaves_the_model_usable(trained, tmp_path):
    folder = tmp_path / "artifacts"
    shutil.copytree(trained / "artifacts", folder)
    paths = {"DATASET": str(trained / "scenes"), "ARTIFACTS": str(folder)}
    weights = {"ENCODER_WEIGHTS": str(ROOT / "artifacts" / "encoder.weights.h5")}
    run("01-data-preparation", tmp_path, IMAGE_SIZE=64, MINIMUM_COUNT=1, **paths, **weights)
    assert set(CaptionGenerator.load(folder).config["confidence"]) == {"en", "de"}


def test_an_interrupted_addition_of_a_language_is_finished(trained, tmp_path, monkeypatch, capsys):
    """By the command that adds languages. The model was saved with German, but the confidence is written last."""
    folder = tmp_path / "artifacts"
    shutil.copytree(trained / "artifacts", folder)
    config = read_pickle(folder / "config.pkl")
    del config["confidence"]["de"]
    write_pickle(folder / "config.pkl", config)
    for name in EXPORTED:
        (folder / name).unlink()
    write_manifest(folder)
    monkeypatch.setattr(languages, "SEVERAL_CAPTIONS", languages.Schedule(1, 0, 12))
    encoder = (trained / "artifacts" / "encoder.tflite").read_bytes()
    monkeypatch.setattr(export, "_convert_encoder", lambda _: encoder)  # it takes ten seconds, for the same result
    monkeypatch.setattr(export, "SEARCH_BATCH", 1)
    monkeypatch.setattr(export, "convert_search", only_default_width(export.convert_search))
    monkeypatch.setattr(search, "compiled", lambda function, xla=False: backend.compiled(function))
    arguments = [str(trained / "scenes"), str(folder)]
    assert languages.main(arguments) == 0 and "Added: de" in capsys.readouterr().out
    assert languages.main(arguments) == 0 and "No language added" in capsys.readouterr().out
    before, generator = CaptionGenerator.load(trained / "artifacts"), CaptionGenerator.load(folder)
    assert generator.languages == ["en", "de"] and set(generator.config["confidence"]) == {"en", "de"}
    photo = trained / "scenes" / "Flicker8k_Dataset" / "scene_0000.jpg"
    assert generator.caption(photo).text == before.caption(photo).text
    assert generator.caption(photo, language="de").text
    history = read_pickle(folder / "history.pkl")
    assert {len(column) for column in history.values()} == {20 + 1}, (
        "the new epoch replaces those of the interrupted run"
    )


def test_history_has_one_value_an_epoch(trained):
    history = read_pickle(trained / "artifacts" / "history.pkl")
    assert {len(column) for column in history.values()} == {20 + 20}  # and those of German
    assert {"stage", "loss", "val_loss", "val_CIDEr"} <= set(history)


def test_a_missing_data_set_says_where_to_get_it(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="(?s)DatasetError.*Flickr8k"):
        run("01-data-preparation", tmp_path, DATASET=str(tmp_path / "nowhere"), ARTIFACTS=str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_output_and_take_parameters(name):
    cells = json.loads((ROOT / f"{name}.ipynb").read_text())["cells"]
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    assert not any(cell.get("outputs") for cell in cells)


def test_the_default_data_folder_is_not_committed():
    assert "data/" in (ROOT / ".gitignore").read_text().split(os.linesep)
