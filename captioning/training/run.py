"""Runs the notebooks in a terminal: shows what they print, and says in one line what goes wrong.

    python -m captioning.training.run -p DATASET data/flickr8k

runs all three, one after the other. The executed notebooks, with their figures, are then in ``data/``.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("01-data-preparation", "02-model-training", "03-model-evaluation")
PATHS = ("DATASET", "ARTIFACTS", "ENCODER_WEIGHTS")  # text, even if it looks like a number


def run_notebook(name: str, executed: Path, parameters: Mapping[str, Any]) -> int:
    """Run a notebook and write it, with its outputs, to ``executed``; returns the exit code."""
    import papermill  # slow to import
    from nbclient.exceptions import DeadKernelError

    executed.parent.mkdir(exist_ok=True)
    os.environ.setdefault("TQDM_MININTERVAL", "10")  # seconds: each line of progress stays in the notebook
    try:
        papermill.execute_notebook(
            ROOT / f"{name}.ipynb", executed, parameters, cwd=ROOT, kernel_name="python3",
            stdout_file=sys.stdout, stderr_file=sys.stderr,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename in ("WorkerError", "DatasetError", "ArtifactError"):
            print(f"error: {error.evalue}", file=sys.stderr)
            return 2
        print(f"error: {error.ename}: {error.evalue}; see {executed}", file=sys.stderr)
        return 1
    except DeadKernelError:  # such as when memory is full
        print(
            f"error: the process of {executed} was killed, perhaps for lack of memory. "
            "Run the same command again (on all workers, if there are several): training resumes",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped. Run the same command again: training resumes", file=sys.stderr)
        return 130
    return 0


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add ``-p NAME VALUE``."""
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a setting of the notebooks, as in docs/training.md; may be repeated")  # fmt: skip


def parameters_of(
    parser: argparse.ArgumentParser, settings: Sequence[tuple[str, str]], notebooks: Sequence[str]
) -> list[dict[str, Any]]:
    """For each notebook, those of the settings that it has, with numbers and lists as such.

    Ends the program if no notebook has one of them.
    """
    import papermill

    values = {name: text if name in PATHS else _value(text) for name, text in settings}
    known = [papermill.inspect_notebook(str(ROOT / f"{notebook}.ipynb")) for notebook in notebooks]
    if unknown := set(values).difference(*known):
        parser.error(f"{min(unknown)} is not a setting. These are: {', '.join(sorted(set().union(*known)))}")
    return [{name: value for name, value in values.items() if name in names} for names in known]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a model: run notebooks 01 to 03.")
    add_parameters(parser)
    settings = parser.parse_args(arguments).p
    for name, parameters in zip(NOTEBOOKS, parameters_of(parser, settings, NOTEBOOKS), strict=True):
        if code := run_notebook(name, ROOT / "data" / f"{name}.ipynb", parameters):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
