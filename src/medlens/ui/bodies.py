"""What requests of the page bring in their bodies."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

Names = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=100_000)]


class NewRun(BaseModel):
    """What a run is made of."""

    data: str
    name: str | None = None
    options: dict[str, Any] = {}


class Exclusion(BaseModel):
    """What is left out, and what is taken in again."""

    images: Names = []
    classes: Names = []
    include_images: Names = []
    include_classes: Names = []


class Start(BaseModel):
    """How training is started."""

    resume: bool = False


class Export(BaseModel):
    """What is exported."""

    format: str
    int8: bool = False


class NewName(BaseModel):
    """Another name for a run."""

    name: str
