"""Searches folders for files."""

import errno
import os
from collections.abc import Callable, Iterator


def files_below(folder: str, report: Callable[[OSError], None], links: bool = False) -> Iterator[str]:
    """The paths of all files below a local folder.

    Args:
        links: whether links to folders are followed.
        report: called for each folder that cannot be listed or entered. Its files are left out.
    """
    visited = set()
    for parent, folders, names in os.walk(folder, onerror=report, followlinks=links):
        if not os.access(parent, os.X_OK):  # its files could be listed, but not opened
            folders.clear()
            report(PermissionError(errno.EACCES, os.strerror(errno.EACCES), parent))
            continue
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # by a link to a folder above it, for example
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (os.path.join(parent, name) for name in names)
