"""The notebooks with the other encoders, each with another decoder.

Slow: it builds, trains and converts large networks.
"""

import json

import nbformat
import pytest
from encoders import check_quantized, randomise_normalisation
from notebooks import NAMES, ROOT, SHORTER, WITHOUT_JAVA, execute
from scenes import draw_dataset

from captioning.network.encoder import Encoder
from generate_captions import CaptionGenerator

pytestmark = pytest.mark.slow

NOT_CONVERTED = """
from captioning.training import features as extraction

convert = extraction.quantized_encoder
extraction.quantized_encoder = lambda encoder: lambda images: encoder(images).numpy()
"""
CONVERTED = """
extraction.quantized_encoder = convert
"""
NOT_COMPILED = """
import tensorflow as tf

from captioning.training import word_prior

many_searches = word_prior.match_length


def match_length(*arguments):
    tf.config.run_functions_eagerly(False)
    try:
        return many_searches(*arguments)
    finally:
        tf.config.run_functions_eagerly(True)


word_prior.match_length = match_length
teacher_forcing.make_search = partial(search.make_search, max_length=6)
tf.config.run_functions_eagerly(True)  # for a few steps, compiling takes longer; not for the searches of `match_length`
"""


@pytest.mark.parametrize(
    ("network", "size", "decoder", "fine_tuning"),
    [("densenet201", 64, "lstm", 0), ("inceptionv3", 128, "transformer", 1), ("xception", 96, "attention", 1)],
)
def test_the_other_encoders_go_through_all_notebooks(network, size, decoder, fine_tuning, tmp_path):
    """With random weights and two steps in each of stages 1 and 2. One kernel for all notebooks starts faster.

    One encoder stays as it is. The others are converted only after they have been trained.
    """
    weights, artifacts = tmp_path / "first.weights.h5", tmp_path / "artifacts"
    randomise_normalisation(Encoder(network, image_size=size)).save(weights)
    dataset = draw_dataset(tmp_path / "scenes", images=20)
    (dataset / "Flickr8k_text" / "Flickr8k.de.token.txt").unlink()
    if decoder == "lstm":  # with one caption per photo
        captions = dataset / "Flickr8k_text" / "Flickr8k.token.txt"
        captions.write_text("".join(line for line in captions.open() if "#0" in line))
    parameters = {
        **{"DATASET": str(dataset), "ARTIFACTS": str(artifacts), "ENCODER_WEIGHTS": str(weights)},
        **{"ENCODER": network, "IMAGE_SIZE": size, "MINIMUM_COUNT": 1, "DECODER": decoder},
        **{"UNITS": 16, "BATCH_SIZE": 8},
        **{
            "EPOCHS": 1,
            "FINE_TUNING_EPOCHS": fine_tuning,
            "NARROW_UNITS": 0,
            "SELF_CRITICAL_EPOCHS": 0,
            "BEAM_WIDTHS": [3],
        },
    }
    set_parameters = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebooks = [nbformat.read(ROOT / f"{name}.ipynb", as_version=4) for name in NAMES]
    before, after = (NOT_CONVERTED, CONVERTED) if fine_tuning else ("", "")
    for notebook, first_cell in zip(notebooks, (before, SHORTER + NOT_COMPILED + after, WITHOUT_JAVA)):
        notebook.cells.insert(1, nbformat.v4.new_code_cell(set_parameters + first_cell))
    together = notebooks[0]
    together.cells += [*notebooks[1].cells, *notebooks[2].cells]
    for number, cell in enumerate(together.cells):
        cell.id = f"cell-{number}"
    execute(together, tmp_path / "all.ipynb", {})

    assert json.loads((artifacts / "evaluation.json").read_text())["images"] == 2
    generator = CaptionGenerator.load(artifacts)
    assert (generator.config["encoder"], generator.config["image_size"]) == (network, size)
    check_quantized(Encoder(network, artifacts / "encoder.weights.h5", size), generator.encode, 0.08)
