"""Training in processes of its own: several workers on loopback, and processes that are killed."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import socket

import numpy as np
import pytest
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError

from captioning.training import workers
from captioning.training.workers import ONE, WorkerError, connect

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["keras", "captioning.training.self_critical"])  # with TensorFlow, once for all


PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))
"""Not those that the system gives to servers without a port of their own: another test could get one meanwhile."""


def cluster(count: int) -> list[str]:
    """Free addresses."""
    addresses: list[str] = []
    while len(addresses) < count:
        address = "127.0.0.1", next(PORTS)
        with contextlib.suppress(OSError), socket.create_server(address):
            addresses.append("{}:{}".format(*address))
    return addresses


def config(addresses: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def start(addresses, index, folder, **settings):
    """Start a worker of `training_worker.work` in a folder of its own."""
    from training_worker import work  # imports TensorFlow

    folder.mkdir(exist_ok=True, parents=True)
    (folder / "error.txt").unlink(missing_ok=True)  # of an earlier run
    process = PROCESSES.Process(target=work, args=(config(addresses, index), folder), kwargs=settings)
    process.start()
    return process, folder


def finish(*started) -> list[tuple[int, str]]:
    """Exit code and error of each."""
    for process, _ in started:
        process.join(900)
        process.kill()
    errors = (folder / "error.txt" for _, folder in started)
    return [(process.exitcode, e.read_text() if e.exists() else "") for (process, _), e in zip(started, errors)]


def train(count, folder, **settings) -> list[dict[str, np.ndarray]]:
    """Run a training with so many workers, worker 0 in this folder; what each wrote at its end."""
    addresses = cluster(count)
    started = [start(addresses, i, folder / f"worker-{i}" if i else folder, **settings) for i in range(count)]
    ends = finish(*started)
    assert ends == [(0, "")] * count
    return [dict(np.load(own / "end.npz")) for _, own in started]


SIX_EPOCHS = {"epochs": 6, "batch_size": 23}
"""Of two steps each. A batch has unequal halves. For the last of the 24 photos, there is only one worker."""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder and the ends of a training of 12 steps, 2 an epoch, with two workers."""
    folder = tmp_path_factory.mktemp("two")
    return folder, train(2, folder, **SIX_EPOCHS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher forcing", "fine-tuning", "distillation", "self-critical"])
def test_a_stage_that_is_killed_goes_on_to_the_same_weights(kind, tmp_path):
    """With dropout. It is killed (SIGKILL) before the last of four steps. Slow: three processes."""
    settings = {"kind": kind, "epochs": 2, "batch_size": 12, "dropout": 0.3, "compiled": False}
    (whole,) = train(1, tmp_path / "whole", **settings)
    ((killed, _),) = finish(start(cluster(1), 0, tmp_path / "cut", **settings, death=3))
    assert killed == -signal.SIGKILL
    (resumed,) = train(1, tmp_path / "cut", **settings)
    assert len(whole["losses"]) == 4 and len(resumed["losses"]) == 2, "it goes on after the first epoch"
    np.testing.assert_allclose(resumed["history"], whole["history"], rtol=1e-3)
    np.testing.assert_allclose(resumed["weights"], whole["weights"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_workers_learn_what_one_does(two, tmp_path):
    """Slow: it compiles the training in three processes."""
    (one,), (folder, two) = train(1, tmp_path, **SIX_EPOCHS), two
    assert len(one["losses"]) == 12 and one["losses"][-1] < 0.9 * one["losses"][0]
    for worker in two:
        np.testing.assert_allclose(worker["losses"], one["losses"], rtol=1e-3)
    for key in ("losses", "weights"):
        np.testing.assert_array_equal(two[0][key], two[1][key])
    assert not list((folder / "worker-1").glob("*.json")), "only the first worker writes"


@pytest.mark.slow
def test_self_critical_training_on_two_workers(tmp_path):
    """Their samples differ, their weights do not. Slow: it compiles the training in two processes."""
    one, other = train(2, tmp_path, kind="self-critical", batch_size=8)
    np.testing.assert_array_equal(one["weights"], other["weights"])
    np.testing.assert_array_equal(one["losses"], other["losses"])
    assert np.isfinite(one["losses"]).all() and len(one["losses"]) == 3


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_time(two, tmp_path):
    """The other stops with one sentence. A single worker then goes on after the last epoch, to the same end.

    Slow: it compiles the training in three processes, besides those of `two`.
    """
    addresses, (_, (whole, _)) = cluster(2), two
    processes = [
        start(addresses, 0, tmp_path, **SIX_EPOCHS),
        start(addresses, 1, tmp_path / "worker-1", **SIX_EPOCHS, death=7),
    ]
    (code, text), (killed, _) = finish(*processes)
    assert killed == -signal.SIGKILL
    assert code == 2 and text.startswith("a worker was lost: start all again")
    assert len(json.loads((tmp_path / "log.json").read_text())["history"]["loss"]) == 3
    (resumed,) = train(1, tmp_path, **SIX_EPOCHS, compiled=False)
    np.testing.assert_allclose(resumed["losses"], whole["losses"][6:], rtol=1e-3)
    np.testing.assert_allclose(resumed["history"], whole["history"], rtol=1e-3)


@pytest.mark.slow
def test_workers_that_do_not_meet_say_so(tmp_path):
    """Slow: the first waits for two seconds."""
    absent, unequal, taken = cluster(2), cluster(3), cluster(2)
    with socket.create_server(("127.0.0.1", int(taken[0].rpartition(":")[2]))):
        first, second, third, fourth = finish(
            start(absent, 0, tmp_path / "first", timeout=2),
            start(unequal[:2], 0, tmp_path / "second"),
            start(unequal, 1, tmp_path / "third"),
            start(taken, 0, tmp_path / "fourth"),
        )
    assert [code for code, _ in (first, second, third, fourth)] == [2] * 4
    assert "did not meet all of " + ", ".join(absent) in first[1]
    different, ended = "lists of different lengths", "could not join the others: if another one ended"
    texts = second[1], third[1]
    assert any(different in text for text in texts)
    assert all(different in text or ended in text for text in texts), "the one may end before it answers the other"
    assert f"make sure that {taken[0]} is a free port" in fourth[1]


@pytest.mark.slow
def test_workers_with_other_settings_do_not_train(tmp_path):
    """Slow: two processes with TensorFlow."""
    addresses = cluster(2)
    ends = finish(*(start(addresses, i, tmp_path / str(i), batch_size=7 + i) for i in range(2)))
    for code, text in ends:
        assert code == 2 and "same settings" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "TF_CONFIG must be"),
        ('{"cluster": {}}', "TF_CONFIG must be"),
        (config(["a:1", "b:2"], 2), "there is no worker 2: the 2 workers are 0 to 1"),
        ('{"cluster": {"chief": ["a:1"], "worker": ["b:2"]}, "task": {"index": 0}}', "TF_CONFIG must be"),
        (config(["a:1", "a:1"], 0), "two workers have the same address"),
        (config(["a:1", "b"], 0), "each worker is HOST:PORT"),
    ],
)
def test_a_wrong_cluster_is_refused(content, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(WorkerError, match=message):
        connect()


def test_without_a_cluster_there_is_one_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert connect() is ONE and ONE.rows(3) == [0, 1, 2]
    monkeypatch.setenv("TF_CONFIG", config(["a:1"], 0))
    assert connect() is ONE


def test_the_command_line_refuses_a_wrong_worker(capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")  # so that it is as before afterwards
    assert workers.main(["a:1,b:1", "2"]) == 2
    assert capsys.readouterr().err == "error: there is no worker 2: the 2 workers are 0 to 1\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PapermillExecutionError(3, 2, "", "WorkerError", "a worker was lost", ""), 2, "error: a worker was lost\n"),
        (PapermillExecutionError(3, 2, "", "KeyError", "'x'", ""), 1, "error: KeyError: 'x'; see "),
        (DeadKernelError("Kernel died"), 1, "was killed, perhaps for lack of memory"),
    ],
)
def test_the_command_line_says_why_the_notebook_failed(error, code, message, capsys, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.setattr(workers, "ROOT", tmp_path)
    monkeypatch.setattr("papermill.execute_notebook", fail)
    assert workers.main(["a:1,b:1", "1"]) == code
    assert message in capsys.readouterr().err
