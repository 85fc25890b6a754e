"""The routes of `medlens ui`: what the page asks, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.model.weights import keras_models_folder
from medlens.run_dir import RunDir
from medlens.serve.access import OPEN_FOLDER, Access, Guard, Paths
from medlens.serve.answers import NOTICE, refuse
from medlens.serve.child import ChildDied, ChildTooSlow
from medlens.serve.server import REPORT_POLICY, handle_usual_errors, page_routes
from medlens.serve.web_files import FOLDER as SERVE_FOLDER
from medlens.serve.web_files import read_web_files
from medlens.ui.bodies import Exclusion, Export, NewName, NewRun, Start
from medlens.ui.choices import change_options, exclude
from medlens.ui.commands import phantoms_command, shown
from medlens.ui.folders import draw_phantoms, list_folder
from medlens.ui.handing_over import (
    ONLY_CLASSIFIER,
    compare_runs,
    formats_available,
    require_finished,
    start_export,
    zip_export,
    zip_run,
)
from medlens.ui.jobs import output_file, stop_job, tail
from medlens.ui.page_options import describe_options, take_options
from medlens.ui.root import Refused, Root
from medlens.ui.runs import delete, describe_run, find_runs, new_run, rename, row_of, run_at
from medlens.ui.steps import describe_audit, describe_plan, start_step
from medlens.ui.thumbnails import Thumbnails
from medlens.ui.trial import TRY, Trial

WEB_FOLDER = Path(__file__).parent / "web"
NO_WEIGHTS = (
    "The pretrained weights are not on this computer. The phantoms are learnt with random filters: "
    "the numbers are no result."
)
DOCUMENTS = ("/runs/report", "/runs/model-card")
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Place:
    """Where the page works.

    Args:
        root: The folder that it may see.
        cache: The option --cache of the commands.
        cache_folder: The folder that this is.
    """

    root: Root
    cache: str
    cache_folder: Path


def chosen_run(request: Request, path: str) -> RunDir:
    """The run that a request names as `path`."""
    return run_at(request.app.state.root, path)


ChosenRun = Annotated[RunDir, Depends(chosen_run)]


def create_app(place: Place, token: str, hosts: frozenset[str]) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        place: Where it works.
        token: What every request has to bring, but those for the empty page.
        hosts: Names by which it may be called.
    """
    trial = Trial(hosts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(trial.close_when_idle())
        yield
        watching.cancel()
        await trial.close()

    app = FastAPI(
        title="medlens ui",
        version=version("medlens"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.root = place.root
    _handle_errors(app)
    # What both pages share lies with that of `medlens serve`.
    shared = {f"serve/{name}": file for name, file in read_web_files(SERVE_FOLDER).items()}
    app.include_router(page_routes({**shared, **read_web_files(WEB_FOLDER)}))
    app.include_router(_folder_routes(place))
    app.include_router(_run_routes(place))
    app.include_router(_step_routes(place))
    app.include_router(_result_routes(place, trial))
    app.include_router(_document_routes())
    app.mount(TRY.rstrip("/"), trial)
    paths = Paths(_is_open, _is_document, "/api/about", "/runs/")
    return Guard(app, Access(hosts, token, paths))


def _is_open(path: str) -> bool:
    """Whether a path is the page without any content, or of a trial, which has its own guard."""
    return path == "/" or path.startswith((OPEN_FOLDER, TRY))


def _is_document(path: str) -> bool:
    """Whether browsers may follow a link there; whole runs and exports want the token itself."""
    return path in DOCUMENTS


def _handle_errors(app: FastAPI) -> None:
    """Turn what stops a request into a status and a sentence."""
    handle_usual_errors(app)

    @app.exception_handler(Refused)
    async def refuse_asked(_: Request, error: Refused) -> Response:
        return refuse(error.status, error.detail)

    @app.exception_handler(MedlensError)
    async def refuse_mendable(_: Request, error: MedlensError) -> Response:
        return refuse(
            422, f"{error.what} Got: {error.got}. Expected: {error.expected}. {error.fix}"
        )

    @app.exception_handler(OSError)
    async def refuse_by_system(_: Request, error: OSError) -> Response:
        reason = error.strerror or "the system refused"
        return refuse(409, f"A file or folder cannot be used: {reason.lower()}.")


def _folder_routes(place: Place) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/about")
    async def about() -> dict[str, Any]:
        """What the page says of itself."""
        return {
            "version": version("medlens"),
            "root": place.root.folder.name,
            "notice": NOTICE,
            "extras": {"export": formats_available()},
        }

    @router.get("/folders")
    def folders(path: str = "") -> dict[str, Any]:
        """What lies in a folder, and whether it can be data."""
        return list_folder(place.root, path, place.cache_folder)

    @router.post("/phantom")
    def phantom() -> dict[str, Any]:
        """Draw the phantom data set of `medlens demo`, where it is not there."""
        labels = draw_phantoms(place.root)
        vgg16 = BACKBONES["vgg16"].weights_name
        has_weights = (keras_models_folder() / vgg16).is_file()
        return {
            "path": place.root.name(labels),
            "options": {"image_size": 64, **({} if has_weights else {"weights": "random"})},
            "note": None if has_weights else NO_WEIGHTS,
            "command": shown(phantoms_command(labels.parent)),
        }

    @router.get("/options")
    async def options() -> list[dict[str, Any]]:
        """The options that can be set on the page."""
        return describe_options()

    return router


def _run_routes(place: Place) -> APIRouter:
    router = APIRouter(prefix="/api")
    root = place.root

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        """All runs below the root, those that changed last first."""
        found, is_cut = find_runs(root)
        rows = [row_of(root, run) for run in found]
        rows.sort(key=lambda row: row["changed"], reverse=True)
        return {"runs": rows, "search_cut_short": is_cut}

    @router.post("/runs")
    def make(asked: NewRun) -> dict[str, Any]:
        """Make the folder of a run."""
        options = {**take_options(root, asked.options), "cache": place.cache}
        return describe_run(root, new_run(root, asked.data, asked.name, options))

    @router.get("/run")
    def one(run: ChosenRun) -> dict[str, Any]:
        """All that the page of a run needs."""
        return describe_run(root, run)

    @router.patch("/run/options")
    def options(run: ChosenRun, changes: dict[str, Any]) -> dict[str, Any]:
        """Change options; null takes one back to its default."""
        change_options(run, take_options(root, changes))
        return describe_run(root, run)

    @router.post("/run/rename")
    def name(run: ChosenRun, asked: NewName) -> dict[str, Any]:
        """Give a run another name."""
        return row_of(root, rename(root, run, asked.name))

    @router.delete("/run")
    def forget(run: ChosenRun, confirm: str) -> dict[str, Any]:
        """Delete a run."""
        delete(run, confirm)
        return {}

    return router


def _step_routes(place: Place) -> APIRouter:
    router = APIRouter(prefix="/api/run")
    root = place.root
    thumbnails = Thumbnails(root, place.cache_folder)

    @router.post("/audit")
    def audit(run: ChosenRun) -> dict[str, str]:
        """Start the audit."""
        return {"command": start_step(root, run, "audit")}

    @router.get("/audit")
    def findings(run: ChosenRun) -> dict[str, Any]:
        """What it found."""
        return describe_audit(run)

    @router.post("/exclude")
    def leave_out(run: ChosenRun, asked: Exclusion) -> dict[str, Any]:
        """Leave images or classes out, or take them in again."""
        exclude(run, **asked.model_dump())
        return describe_run(root, run)

    @router.post("/plan")
    def plan(run: ChosenRun) -> dict[str, str]:
        """Start planning."""
        return {"command": start_step(root, run, "plan")}

    @router.get("/plan")
    def decisions(run: ChosenRun) -> dict[str, Any]:
        """What was planned."""
        return describe_plan(run)

    @router.post("/train")
    def train(run: ChosenRun, asked: Start) -> dict[str, str]:
        """Start training, or go on with it."""
        return {"command": start_step(root, run, "train", resume=asked.resume)}

    @router.post("/stop")
    def stop(run: ChosenRun) -> dict[str, Any]:
        """Interrupt what is at work; what is finished is kept."""
        stop_job(run)
        return {}

    @router.get("/log")
    def log(run: ChosenRun) -> dict[str, Any]:
        """The last lines of what the last job said, or else of log.txt."""
        return {"lines": tail(output_file(run)) or tail(run.log)}

    @router.get("/thumbnail")
    def thumbnail(
        run: ChosenRun, image: str, size: Annotated[int, Query(ge=16, le=1024)] = 160
    ) -> Response:
        """A small picture of an image of the data."""
        return Response(thumbnails.make(run, image, size), media_type="image/jpeg")

    return router


def _result_routes(place: Place, trial: Trial) -> APIRouter:
    router = APIRouter(prefix="/api")
    root = place.root

    @router.get("/compare")
    def compare(first: str, second: str) -> dict[str, Any]:
        """Compare two runs on the same test set."""
        return compare_runs(root, run_at(root, first), run_at(root, second))

    @router.post("/run/export")
    def export(run: ChosenRun, asked: Export) -> dict[str, str]:
        """Start an export."""
        return {"command": start_export(root, run, asked.format, int8=asked.int8)}

    @router.post("/run/try")
    async def open_to_try(run: ChosenRun) -> dict[str, str]:
        """Load the classifier; the page to try it is at the address that is answered."""
        require_finished(run)
        try:
            address, token = await trial.open(run)
        except (ChildDied, ChildTooSlow):
            raise Refused(503, "The process that holds the classifier did not start.") from None
        return {
            "address": address,
            "token": token,
            "command": shown(["medlens", "serve", str(run.root)]),
        }

    return router


def _document_routes() -> APIRouter:
    router = APIRouter(prefix="/runs")

    @router.get("/report")
    def report(run: ChosenRun) -> FileResponse:
        """The report, one HTML file."""
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return _document(run.report, "text/html; charset=utf-8", headers)

    @router.get("/model-card")
    def model_card(run: ChosenRun) -> FileResponse:
        """What the classifier is, in a page of Markdown."""
        return _document(run.model_card, TEXT)

    @router.get("/zip")
    def whole(run: ChosenRun, only_classifier: bool = False) -> Response:
        """The run as one .zip, or its classifier alone, which names no image and no patient."""
        kind = ONLY_CLASSIFIER if only_classifier else ""
        parts = zip_run(run, only_classifier=only_classifier)
        return _download(parts, f"{run.root.name}{kind}.zip")

    @router.get("/export")
    def export(run: ChosenRun, format: str) -> Response:  # noqa: A002 - as the command calls it
        """The files of an export as a .zip."""
        return _download(zip_export(run, format), f"{run.root.name}-{format}.zip")

    return router


def _download(parts: Iterator[bytes], name: str) -> Response:
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return StreamingResponse(parts, media_type="application/zip", headers=headers)


def _document(path: Path, kind: str, headers: dict[str, str] | None = None) -> FileResponse:
    if not path.is_file():
        raise Refused(404, "The run is not finished: it has no such document yet.")
    return FileResponse(path, media_type=kind, headers=headers)
