"""The settings of the service: defaults, replaced by environment variables."""

import os
from pathlib import Path

import limits
from flask import Config

DEFAULTS = {
    "BEAM_WIDTH": 3,  # also the number of captions to choose from
    "MAX_CONTENT_LENGTH": 32 * 2**20,  # bytes of all photos in a request
    "MAX_PHOTOS": 20,  # in a request
    "MAX_FORM_PARTS": 100,  # files and other fields in a request
    "MAX_BATCH": 20,  # photos that the model computes together
    "BATCH_WAIT": 0,  # seconds that a photo waits for others when the model is idle
    "QUEUE_LENGTH": 64,  # photos that wait for the model; one more is refused (503)
    "REQUEST_TIMEOUT": 30,  # seconds until a request is refused (503)
    "RATE_LIMIT": "600 per minute",  # requests with photos from one address; empty: no limit
    "PROXIES": 0,  # reverse proxies in front, whose X-Forwarded-For holds the client's address
    "ALLOWED_ORIGINS": [],  # other sites whose pages may call this one, such as ["https://example.org"]
}
MAY_BE_ZERO = {"BATCH_WAIT", "PROXIES"}


def load_settings(config: Config, root: Path) -> None:
    """Fill ``config`` with `DEFAULTS` and the environment: ``CAPTIONER_QUEUE_LENGTH=128`` sets ``QUEUE_LENGTH``.

    Raises:
        ValueError: a setting is of the wrong kind; the message names it.
    """
    config.update(DEFAULTS, ARTIFACTS_DIR=os.environ.get("ARTIFACTS_DIR", root / "artifacts"))
    config.from_prefixed_env("CAPTIONER")
    for name, default in DEFAULTS.items():
        if not _is_valid(name, config[name], default):
            raise ValueError(f"CAPTIONER_{name}={config[name]!r} is not understood. An example: {default!r}.")


def _is_valid(name: str, value, default) -> bool:
    if isinstance(default, str):  # the rate limit
        try:
            return not value or bool(limits.parse_many(str(value)))
        except ValueError:
            return False
    if isinstance(default, list):
        return isinstance(value, list)
    return isinstance(value, (int, type(default))) and value >= (0 if name in MAY_BE_ZERO else 1)
