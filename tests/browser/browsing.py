"""What the browser tests share: pictures to upload, and a phone."""

import io

import numpy as np
from PIL import Image

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def picture(seed=0, size=(320, 240)) -> bytes:
    """A soft blot of colours, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, "PNG")
    return file.getvalue()


def upload(name="photo.png", data=None) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": picture() if data is None else data}


BROKEN = upload("notes.png", b"not a picture at all")
