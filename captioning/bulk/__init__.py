"""Captions of many photos, on one machine or a Ray cluster: ``python -m captioning.bulk``. See docs/scale.md.

`sources` finds the photos, `shards` keeps the captions and knows what is done, `actor` captions, `run` puts them
together on Ray Data. `features` encodes the photos of a data set for training instead.
"""

AGAIN = "Run it again: finished photos are kept"


class BulkError(ValueError):
    """The run cannot start or go on. The message says what is wrong and what to do."""
