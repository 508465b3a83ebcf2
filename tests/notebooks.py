"""Runs the notebooks for tests."""

from pathlib import Path

import nbformat
import papermill

from captioning.generator import DEFAULT_BEAM_WIDTH

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in ROOT.glob("*.ipynb"))

SHORTER = f"""
import sys

sys.path.append("{ROOT / "tests"}")

from dataclasses import replace
from functools import cache, partial

from notebooks import only_default_width
from training_runs import compile_fast

from captioning.network import encoder, export, search
from captioning.training import languages, self_critical, teacher_forcing

compile_fast()
teacher_forcing.make_search = self_critical.make_search = cache(search.make_search)  # compiled once for all stages
self_critical.make_sampler = partial(search.make_sampler, max_length=8)  # few shapes; true captions have seven words
encoder.ENCODERS["resnet50"] = replace(encoder.ENCODERS["resnet50"], fine_tune_from="conv5_block1_1_conv")
export.SEARCH_BATCH = 1
export.convert_search = only_default_width(export.convert_search)
languages.SEVERAL_CAPTIONS = languages.Schedule(epochs=20, self_critical_epochs=0, batch_size=12)  # epochs are short
"""

WITHOUT_JAVA = """
import os

os.environ["PATH"] = ""  # METEOR starts Java for each table, which takes 12 s; test_evaluation.py tests it
"""


def only_default_width(convert_search):
    """`convert_search` for the default beam width; nothing for the others, because each takes seconds."""
    return lambda decoder, tokenizer, width, *settings: (
        convert_search(decoder, tokenizer, width, *settings) if width == DEFAULT_BEAM_WIDTH else {}
    )


def run(name, folder, first_cell="", **parameters):
    """Run a notebook with parameters and a cell after them."""
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(first_cell))
    execute(notebook, folder / f"{name}.ipynb", parameters)


def execute(notebook, path, parameters):
    nbformat.write(notebook, path)
    papermill.execute_notebook(
        path, path, parameters, cwd=ROOT, kernel_name="python3", start_timeout=600, progress_bar=False
    )
