"""The routes of `medlens serve`: what comes in by HTTP, what goes out, and what is refused."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine, Mapping
from importlib.metadata import version
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from medlens.serve.access import Access, Guard
from medlens.serve.answers import (
    Explanation,
    Model,
    Models,
    OperatingPoint,
    Predictions,
    Problem,
    State,
    Window,
    refuse,
)
from medlens.serve.child import NotAvailable
from medlens.serve.limits import Full
from medlens.serve.metrics import CLIENT_GONE, Measured
from medlens.serve.service import Served, Service, Unreadable
from medlens.serve.uploads import Received, multipart_schema, receive
from medlens.serve.web_files import INDEX, WebFile, read_web_files

# The report is one file with its own style and pictures in it, and without any script.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SECONDS_TO_START_AGAIN = 10
ModelName = Annotated[
    str | None, Query(description="Name of a model; may be left out where one is served.")
]
Number = Annotated[float | None, Query(allow_inf_nan=False)]
Width = Annotated[float | None, Query(gt=0, allow_inf_nan=False)]
T = TypeVar("T")


def create_app(service: Service, access: Access) -> ASGIApp:
    """The server as an ASGI application; the service must have been started.

    Args:
        service: What answers.
        access: Who may ask.
    """
    return Measured(Guard(create_routes(service), access), service.metrics)


def create_routes(service: Service) -> FastAPI:
    """All routes, for whoever may ask; they work below any address.

    Args:
        service: What answers.
    """
    app = FastAPI(
        title="medlens",
        version=version("medlens"),
        description="Probabilities of a medlens classifier over HTTP. Not a medical device.",
        docs_url=None,
        redoc_url=None,
    )
    _handle_errors(app, service)
    app.include_router(page_routes(read_web_files()))
    app.include_router(_state_routes(service))
    app.include_router(_model_routes(service))
    app.include_router(_image_routes(service))
    return app


def page_routes(files: Mapping[str, WebFile]) -> APIRouter:
    """The page and its files, in which nothing of anybody is.

    Args:
        files: Those of the page, by their names below /static/.
    """
    router = APIRouter(include_in_schema=False)

    def send(name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise HTTPException(404, "There is no such file.")
        return Response(file.content, media_type=file.kind, headers={"Cache-Control": "no-cache"})

    @router.get("/")
    async def page() -> Response:
        return send(INDEX)

    @router.get("/static/{name:path}")
    async def static(name: str) -> Response:
        return send(name)

    return router


def _state_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> State:
        """Whether the server answers at all."""
        return State(status="ok")

    @router.get("/ready", response_model=State, responses={503: {"model": State}})
    async def ready() -> Response:
        """Whether every model is loaded, and every process that works for them is there."""
        status = State(status="ready" if service.is_ready else "starting")
        return JSONResponse(status.model_dump(), 200 if service.is_ready else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus, in its text format."""
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router


def _model_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["models"], responses={404: {"model": Problem}})

    @router.get("/models")
    async def models(request: Request) -> Models:
        """The models that are served."""
        below = request.scope.get("root_path", "")
        return Models(models=[_describe(model, below) for model in service.models.values()])

    @router.get("/models/{name}/report", response_class=FileResponse)
    async def report(name: str) -> FileResponse:
        """The report of a model's run, one HTML file."""
        path = _choose(service, name).run.report
        if not path.is_file():
            raise HTTPException(404, "This model has no report.")
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)

    @router.get("/models/{name}/model-card", response_class=FileResponse)
    async def model_card(name: str) -> FileResponse:
        """What a model is, in a page of Markdown."""
        path = _choose(service, name).run.model_card
        if not path.is_file():
            raise HTTPException(404, "This model has no model card.")
        # Browsers would not show Markdown, but save it.
        return FileResponse(path, media_type="text/plain; charset=utf-8")

    return router


def _image_routes(service: Service) -> APIRouter:
    limits = service.limits
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (401, 403, 404, 408, 413, 415, 429, 503, 504)
    }
    router = APIRouter(tags=["images"], responses=problems)

    async def take(request: Request, field: str, most: int) -> Received:
        if service.images.is_full:  # before the body is read
            raise Full
        return await receive(request, field, most=most, limits=limits, room=service.bytes)

    @router.post(
        "/predict",
        response_model=Predictions,
        responses={422: {"model": Predictions | Problem}},
        openapi_extra=multipart_schema("images", several=True),
    )
    async def predict(request: Request, model: ModelName = None) -> Response:
        """What a model says of images; 422 where none of them can be read."""
        chosen = _choose(service, model)
        taken = await take(request, "images", limits.images)
        work = service.predict(chosen, taken.files)
        results = await _while_wanted(request, service, taken, work)
        answer = Predictions(model=chosen.name, results=results)
        status = 200 if any(one.unreadable is None or one.failed for one in results) else 422
        return Response(answer.model_dump_json(), status, media_type="application/json")

    @router.post(
        "/explain",
        response_model=Explanation,
        responses={422: {"model": Problem}},
        openapi_extra=multipart_schema("image", several=False),
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        class_name: Annotated[
            str | None,
            Query(alias="class", description="Left out, the most probable class is explained."),
        ] = None,
    ) -> Response:
        """Where an image speaks for a class, and similar training images."""
        chosen = _choose(service, model)
        if class_name is not None and class_name not in chosen.facts["classes"]:
            raise HTTPException(404, f"There is no class of that name in {chosen.name}.")
        taken = await take(request, "image", 1)
        work = service.explain(chosen, taken.files[0], class_name)
        found = await _while_wanted(request, service, taken, work)
        prediction, (facts, images), window = found
        answer = Explanation.model_validate(
            {
                "model": chosen.name,
                "prediction": prediction,
                "class": facts["class"],
                **_describe_images(facts, images),
                "dicom": window and _describe_window(window),
            }
        )
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")

    @router.post(
        "/picture",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, 422: {"model": Problem}},
        openapi_extra=multipart_schema("image", several=False),
    )
    async def picture(
        request: Request,
        model: ModelName = None,
        window_center: Number = None,
        window_width: Width = None,
    ) -> Response:
        """How a file looks: a PNG of at most 1024 px; for grey DICOM images in any window.

        Of several frames it shows the one that the model sees. The network always uses its own
        fixed rule.
        """
        chosen = _choose(service, model)
        if (window_center is None) != (window_width is None):
            raise HTTPException(422, "window_center and window_width are given together, or none.")
        window = None
        if window_center is not None and window_width is not None:
            window = (window_center, window_width)
        taken = await take(request, "image", 1)
        work = service.look(chosen, taken.files[0], window)
        png = await _while_wanted(request, service, taken, work)
        return Response(png, media_type="image/png")

    return router


async def _while_wanted(
    request: Request, service: Service, taken: Received, work: Coroutine[Any, Any, T]
) -> T:
    """Work on what was taken: for a bounded time, and as long as the client is there."""
    working = service.begin(work)
    working.add_done_callback(lambda _: taken.give_back())
    leaving = asyncio.create_task(_client_leaves(request))
    try:
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait({working, leaving}, timeout=service.limits.seconds, return_when=first)
        if working.done():
            return working.result()
        if leaving.done():
            raise ClientDisconnect
        raise HTTPException(504, "It took longer than the time limit of this server.")
    finally:
        leaving.cancel()
        # Not waited for: a process may be at work on it, and until then it keeps its room.
        working.cancel()


async def _client_leaves(request: Request) -> None:
    """Ends when the client goes away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def handle_usual_errors(app: FastAPI) -> None:
    """Turn a request that is not valid, and our own failure, into a status and a sentence."""

    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(_: Request, error: RequestValidationError) -> Response:
        # Which parameter is wrong, and not what was sent.
        said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return refuse(422, "; ".join(said))

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:
        return refuse(500, "The server failed. This is our fault.")


def _handle_errors(app: FastAPI, service: Service) -> None:
    """Turn what stops a request into a status and a sentence."""
    handle_usual_errors(app)

    @app.exception_handler(Unreadable)
    async def refuse_unreadable(_: Request, error: Unreadable) -> Response:
        return refuse(422, error.reason)

    @app.exception_handler(Full)
    async def refuse_for_now(_: Request, __: Full) -> Response:
        service.metrics.refused.labels("full").inc()
        wait = service.seconds_to_wait
        return refuse(
            429, f"Too much is under way. Try again in {wait} s.", {"Retry-After": str(wait)}
        )

    @app.exception_handler(NotAvailable)
    async def say_not_available(_: Request, __: NotAvailable) -> Response:
        detail = "The process that holds the model is being started again. Try again."
        return refuse(503, detail, {"Retry-After": str(SECONDS_TO_START_AGAIN)})

    @app.exception_handler(ClientDisconnect)
    async def note_gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)  # nobody reads it; it is counted


def _choose(service: Service, name: str | None) -> Served:
    models = service.models
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name is None:
        raise HTTPException(422, "Several models are served: name one, as ?model=NAME.")
    if name not in models:
        raise HTTPException(404, "There is no model of that name; see /models.")
    return models[name]


def _describe(model: Served, below: str) -> Model:
    facts, point = model.facts, model.facts["operating_point"]
    address = f"{below}/models/{quote(model.name, safe='')}"
    positive = facts["positive_class"]
    return Model(
        name=model.name,
        classes=facts["classes"],
        positive_class=positive,
        operating_point=None
        if point is None
        else OperatingPoint(
            text=f"{positive} from a probability of {point['threshold']:.3g} on "
            f"(chosen by {point['rule']})",
            **point,
        ),
        prediction_set_level=facts["set_level"],
        backbone=facts["backbone"],
        image_size=facts["size"],
        has_similar=facts["has_similar"],
        has_similar_images=facts["has_similar_images"],
        report=f"{address}/report" if model.run.report.is_file() else None,
        model_card=f"{address}/model-card" if model.run.model_card.is_file() else None,
    )


def _describe_window(window: Mapping[str, float]) -> Window:
    return Window(
        window_center=window["center"],
        window_width=window["width"],
        low=window["lowest"],
        high=window["highest"],
    )


def _describe_images(facts: Mapping[str, Any], images: bytes) -> dict[str, Any]:
    """Cut what the classifier's process sent apart again, and say which is which."""
    parts, start = [], 0
    for length in facts["lengths"]:
        parts.append(images[start : start + length])
        start += length
    picture, heat, *cases = parts
    return {
        "picture": _data_url(picture, "png"),
        "overlay": _data_url(heat, "png"),
        "similar": [
            {**case, "image": _data_url(image, "jpeg") if image else None}
            for case, image in zip(facts["similar"], cases, strict=True)
        ],
    }


def _data_url(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
