"""Runs the notebooks for tests."""

from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in ROOT.glob("*.ipynb"))

SHORTER = f"""
import sys

sys.path.append("{ROOT / "tests"}")

from training_runs import compile_fast

from captioning.network import export
from captioning.training import languages

compile_fast()
convert = export.convert_search
export.convert_search = lambda d, t, width, *s: convert(d, t, width, *s) if width == 3 else {{}}  # each takes seconds
languages.SEVERAL_CAPTIONS = languages.Schedule(epochs=20, self_critical_epochs=0, batch_size=12)  # epochs are short
"""

WITHOUT_JAVA = """
import os

os.environ["PATH"] = ""  # METEOR starts Java for each table, which takes 12 s; test_evaluation.py tests it
"""


def run(name, folder, first_cell="", **parameters):
    """Run a notebook with parameters and a cell after them."""
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(first_cell))
    execute(notebook, folder / f"{name}.ipynb", parameters)


def execute(notebook, path, parameters):
    nbformat.write(notebook, path)
    papermill.execute_notebook(path, path, parameters, cwd=ROOT, kernel_name="python3", progress_bar=False)
