"""The notebooks from a terminal."""

import pytest
from papermill import PapermillExecutionError

from captioning.training import run


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """The notebooks that were run, with their parameters; the second one fails for the data set "broken"."""
    found = []

    def execute(notebook, output, parameters, **options):
        found.append((notebook.stem, output.name, parameters))
        if parameters["DATASET"] == "broken" and len(found) == 2:
            raise PapermillExecutionError(3, 2, "", "DatasetError", "broken has no captions", "")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    return found


def test_all_notebooks_are_run_with_the_same_parameters(executed):
    assert run.main(["-p", "DATASET", "photos", "-p", "EPOCHS", "2"]) == 0
    parameters = {"DATASET": "photos", "EPOCHS": 2}
    assert executed == [(name, f"{name}.ipynb", parameters) for name in run.NOTEBOOKS]
    assert sorted(run.NOTEBOOKS) == sorted(path.stem for path in run.ROOT.glob("*.ipynb"))


def test_an_error_ends_the_run_with_its_message(executed, capsys):
    assert run.main(["-p", "DATASET", "broken"]) == 2
    assert len(executed) == 2
    assert capsys.readouterr().err == "error: broken has no captions\n"


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def execute(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", execute)
    assert run.main(["-p", "DATASET", "photos"]) == 130
    assert capsys.readouterr().err == "stopped. Start again: it goes on\n"
