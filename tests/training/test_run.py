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


def test_each_notebook_gets_its_settings(executed):
    settings = {"DATASET": "2017", "EPOCHS": "2", "LEARNING_RATE": ".5", "IMAGE_SIZE": "None", "SPLIT": "validation"}
    assert run.main([part for name, value in settings.items() for part in ("-p", name, value)]) == 0
    assert executed == [
        ("01-data-preparation", "01-data-preparation.ipynb", {"DATASET": "2017", "IMAGE_SIZE": None}),
        ("02-model-training", "02-model-training.ipynb", {"DATASET": "2017", "EPOCHS": 2, "LEARNING_RATE": 0.5}),
        ("03-model-evaluation", "03-model-evaluation.ipynb", {"DATASET": "2017", "SPLIT": "validation"}),
    ]
    assert sorted(run.NOTEBOOKS) == sorted(path.stem for path in run.ROOT.glob("*.ipynb"))


def test_a_misspelt_setting_is_refused(executed, capsys):
    with pytest.raises(SystemExit) as exit:
        run.main(["-p", "EPOCH", "2"])
    assert exit.value.code == 2 and "EPOCH is not a setting. These are: ARTIFACTS" in capsys.readouterr().err
    assert not executed


def test_an_error_ends_the_run_with_its_message(executed, capsys):
    assert run.main(["-p", "DATASET", "broken"]) == 2
    assert len(executed) == 2
    assert capsys.readouterr().err == "error: broken has no captions\n"


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def execute(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", execute)
    assert run.main(["-p", "DATASET", "photos"]) == 130
    assert capsys.readouterr().err == "stopped. Run the same command again: training resumes\n"
