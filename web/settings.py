"""The settings of the service: defaults, replaced by environment variables."""

import difflib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import limits
from flask import Config

from captioning.generator import DEFAULT_BEAM_WIDTH, MAX_BEAM_WIDTH

PREFIX = "CAPTIONER_"  # of environment variables
DEFAULTS = {
    "BEAM_WIDTH": DEFAULT_BEAM_WIDTH,  # candidate captions that the beam search keeps at each word
    "MAX_CONTENT_LENGTH": 32 * 2**20,  # bytes of a request, except one with a clip
    "MAX_PHOTOS": 20,  # in a request
    "MAX_FORM_PARTS": 100,  # files and other fields in a request
    "QUEUE_LENGTH": 64,  # photos that are read or wait for the model; one more is refused (503)
    "REQUEST_TIMEOUT": 30,  # seconds until a request is refused (503)
    "UPLOAD_TIMEOUT": 300,  # seconds for a request to arrive, and for its answer to be read
    "VIDEO_SECONDS": 180,  # length of a clip
    "VIDEO_BYTES": 200 * 2**20,  # of a clip
    "VIDEO_JOBS": 2,  # clips that are captioned at a time; one more is refused (503); 0: no clips
    "RATE_LIMIT": "600 per minute",  # POST requests, and those with a wrong key, from one address; empty: no limit
    "PROXIES": 0,  # reverse proxies in front, whose X-Forwarded-For holds the client's address
    "ALLOWED_ORIGINS": [],  # other sites whose pages may call this one, such as ["https://example.org"]
    "API_KEYS": [],  # a request needs one of these; empty: anybody may use the service
    "METRICS_LISTEN": "",  # address and port that serve the metrics instead of /metrics, such as "127.0.0.1:9100"
}
EXAMPLES = {  # as in the environment
    "ALLOWED_ORIGINS": '["https://example.org"]',
    "API_KEYS": '["8c1f0e5d2b7a"]',
    "METRICS_LISTEN": "127.0.0.1:9100",
}
MAY_BE_ZERO = {"PROXIES", "VIDEO_JOBS"}
SECONDS = {"REQUEST_TIMEOUT", "UPLOAD_TIMEOUT", "VIDEO_SECONDS"}  # fractions too


def load_settings(config: Config, root: Path) -> None:
    """Fill ``config`` with `DEFAULTS` and the environment: ``CAPTIONER_QUEUE_LENGTH=128`` sets ``QUEUE_LENGTH``.

    Raises:
        ValueError: a setting is of the wrong kind, or its name seems to be misspelt; the message names it.
    """
    config.update(DEFAULTS, ARTIFACTS_DIR=os.environ.get("ARTIFACTS_DIR") or root / "artifacts")
    given = {name.removeprefix(PREFIX): value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in set(given) - set(DEFAULTS):  # Kubernetes sets others with this prefix
        if name == "ARTIFACTS_DIR":
            raise ValueError(f"{PREFIX}{name} is not a setting. Is {name} meant?")
        if meant := difflib.get_close_matches(name, DEFAULTS, cutoff=0.8):
            raise ValueError(f"{PREFIX}{name} is not a setting. Is {PREFIX}{meant[0]} meant?")
    for name in set(given) & set(DEFAULTS):
        try:
            config[name] = json.loads(given[name])
        except ValueError:
            config[name] = given[name]  # text
    for name, default in DEFAULTS.items():
        if not _is_valid(name, config[name], default):
            value = "" if name == "API_KEYS" else f"={config[name]!r}"  # keys stay out of the log
            example = EXAMPLES.get(name, repr(default))
            raise ValueError(f"{PREFIX}{name}{value} is not valid. An example: {example}.")
    if config["MAX_PHOTOS"] > config["QUEUE_LENGTH"]:
        raise ValueError(
            f"{PREFIX}MAX_PHOTOS is larger than {PREFIX}QUEUE_LENGTH. Lower the first or raise the second."
        )
    if config["MAX_PHOTOS"] + 2 > config["MAX_FORM_PARTS"]:  # the page sends its language and an empty file too
        raise ValueError(f"{PREFIX}MAX_FORM_PARTS must be at least {config['MAX_PHOTOS'] + 2} for {PREFIX}MAX_PHOTOS.")


def _is_valid(name: str, value: Any, default: Any) -> bool:
    if name == "RATE_LIMIT":
        try:
            return not value or bool(limits.parse_many(str(value)))
        except ValueError:
            return False
    if name == "METRICS_LISTEN":
        return not value or bool(re.fullmatch(r"(\S+):(\d{1,5})", str(value)))
    if name == "API_KEYS":  # visible ASCII characters, which any client can send in a header
        return isinstance(value, list) and all(isinstance(k, str) and re.fullmatch("[!-~]+", k) for k in value)
    if name == "ALLOWED_ORIGINS":  # as browsers send them
        origin = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*A-Z]+")
        return isinstance(value, list) and all(isinstance(site, str) and origin.fullmatch(site) for site in value)
    if isinstance(value, bool) or not isinstance(value, (int, float) if name in SECONDS else int):
        return False
    least = 0 if name in MAY_BE_ZERO else 1
    return least <= value < math.inf and (name != "BEAM_WIDTH" or value <= MAX_BEAM_WIDTH)
