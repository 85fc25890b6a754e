"""What the server answers, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

NOTICE = "Not a medical device."

Probability = Annotated[float, Field(ge=0, le=1)]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One sentence, with what to do about it.")


class State(BaseModel):
    """Whether the server works."""

    status: str


class OperatingPoint(BaseModel):
    """The threshold of the positive class, chosen on development images."""

    text: str = Field(description="What it decides, in a sentence.")
    rule: str = Field(description="How it was chosen, such as sensitivity=0.95.")
    threshold: Probability
    recall: Probability = Field(description="Sensitivity on the images it was chosen on.")
    specificity: Probability


class Model(BaseModel):
    """A classifier that is served."""

    name: str
    classes: list[str] = Field(description="In the order of training.")
    positive_class: str | None
    operating_point: OperatingPoint | None
    prediction_set_level: Probability | None = Field(
        description="Share of prediction sets that hold the true class."
    )
    backbone: str
    image_size: int = Field(description="Side of the square that the network sees, in pixels.")
    has_similar: bool = Field(description="Whether /explain names similar training cases.")
    has_similar_images: bool = Field(description="Whether it shows them.")
    report: str | None = Field(description="Where the report is, on this server.")
    model_card: str | None


class Models(BaseModel):
    """All classifiers that are served."""

    notice: str = NOTICE
    models: list[Model]


class Prediction(BaseModel):
    """What a classifier says of an image, or why it says nothing."""

    name: str = Field(description="As the client called the file.")
    predicted: str | None = Field(description="The most probable class.")
    probabilities: dict[str, Probability] | None = Field(description="Calibrated, by class.")
    decision: str | None = Field(description="At the operating point; null without one.")
    prediction_set: list[str] | None
    unfamiliar: bool | None = Field(
        description="Whether the image is unlike the training images: then the answer is worth "
        "little. Null where it cannot be read."
    )
    distance: float | None = Field(
        description="From the training images; null where it is not a finite number."
    )
    limit: float = Field(description="Images at a larger distance are unfamiliar.")
    unreadable: str | None = Field(
        description="Why nothing is said of the image; null where something is."
    )
    failed: bool = Field(
        description="Whether it was the server that failed over the image, so that it is worth "
        "sending again; what is wrong is then no fault of the file."
    )


class Predictions(BaseModel):
    """What a classifier says of the images of a request, in their order."""

    model: str
    notice: str = NOTICE
    results: list[Prediction]


class Similar(BaseModel):
    """A training image whose features are near."""

    row: int = Field(description="In dataset.csv of the run.")
    label: str
    distance: float
    image: str | None = Field(description="A data URL, where the run has images.")


class Window(BaseModel):
    """How a grey DICOM image was shown to the network, and the range of its values."""

    window_center: float
    window_width: float
    low: float
    high: float


class Explanation(BaseModel):
    """Where an image speaks for a class, and which training images are like it."""

    model: str
    notice: str = NOTICE
    prediction: Prediction
    class_: str = Field(alias="class", description="The class that is explained.")
    picture: str = Field(description="What the network saw: a data URL of a PNG.")
    overlay: str = Field(
        description="Heat: a data URL of a PNG of the same size, clear where there is none."
    )
    similar: list[Similar]
    dicom: Window | None


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is refused or failed.

    Args:
        status: Of HTTP.
        detail: One sentence, with what to do about it; see `Problem`.
        headers: Further ones.
    """
    return JSONResponse(Problem(detail=detail).model_dump(), status, headers)
