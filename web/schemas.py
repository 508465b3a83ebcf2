"""The requests and answers of the API, from which `/openapi.json` is made."""

from typing import Annotated, Literal

from flask_openapi import FileStorage
from pydantic import BaseModel, ConfigDict, Field, Json, field_validator

from web.uploads import Options

Probability = Annotated[float, Field(ge=0, le=1)]


class Problem(BaseModel):
    """Any error."""

    status: Literal["error"]
    message: str = Field(
        description="What is wrong and what to do, in the language of Accept-Language (validation errors: in English)."
    )


class Prediction(BaseModel):
    index: str
    caption: str
    probability: Probability = Field(description="Of all its words and of the end.")


class Predictions(BaseModel):
    status: Literal["ok"]
    predictions: list[Prediction] = Field(description="The best one first.")


class Metadata(BaseModel):
    id: str
    name: str
    description: str
    type: str
    source: str
    license: str


MAX_GRID = 32  # rows or columns of the encoder's regions
Row = Annotated[list[Annotated[float, Field(ge=0, le=99)]], Field(min_length=1, max_length=MAX_GRID)]


def without_pattern(schema: dict) -> None:
    """Clients check answers by the schema, but Python's `re` cannot read this pattern."""
    del schema["pattern"]
    schema |= {"minLength": 1, "maxLength": 40, "description": "Letters, digits, ' and - only."}


class Word(BaseModel):
    model_config = ConfigDict(strict=True)

    text: str = Field(pattern=r"^[\p{L}\p{N}'-]{1,40}$", json_schema_extra=without_pattern)
    probability: Probability
    attention: list[Row] = Field(
        min_length=1,
        max_length=MAX_GRID,
        description="The attention over a grid on the photo, row by row from the top: 7 x 7 for the shipped model. In "
        "answers, its sum is 1.",
    )

    @field_validator("attention")
    @classmethod
    def is_rectangular(cls, rows: list) -> list:
        if len({len(row) for row in rows}) > 1:
            raise ValueError("all rows must have the same length")
        return rows


class Choice(BaseModel):
    caption: str = Field(
        description="In lower case except for German nouns, without a full stop; empty if the model found none."
    )
    probability: Probability = Field(description="Of all its words and of the end.")
    confidence: Probability = Field(description="Estimated share of the caption that a person would also have written.")
    words: list[Word] | None = Field(
        default=None, description="Only with attention=true, if the model has attention and found a caption."
    )


class PhotoResult(BaseModel):
    """A photo with its captions, or the reason why it has none."""

    image: str = Field(description="The file's name.")
    caption: str | None = None
    language: str | None = Field(None, description="Of the captions, such as `en`.")
    probability: Probability | None = None
    confidence: Probability | None = None
    alternatives: list[Choice] | None = Field(None, description="The best one first; it is the caption.")
    error: str | None = None
    error_status: Literal[413, 415, 422] | None = Field(None, description="The status that this photo alone would get.")


class Captions(BaseModel):
    status: Literal["ok"]
    photos: list[PhotoResult] = Field(description="In the order in which they were sent.")


class OnePhoto(BaseModel):
    image: FileStorage = Field(description="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC.")


class Photos(BaseModel):
    model_config = ConfigDict(extra="forbid")  # options belong in the query string

    image: list[FileStorage] = Field(min_length=1, description="One or several photos.")  # at most MAX_PHOTOS


class CaptionOptions(Options):
    """The query string of `/api/captions`."""

    attention: bool = Field(default=False, description="Add the attention of each word.")


class AttentionForm(OnePhoto):
    words: Json[Annotated[list[Word], Field(min_length=1, max_length=30)]] = Field(
        description="The `words` of an alternative from /api/captions?attention=true, as one JSON text."
    )
