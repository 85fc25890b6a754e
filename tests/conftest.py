"""What several test files share."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from medlens.errors import MedlensError
from medlens.report.pdf import find_chromium

if TYPE_CHECKING:
    import medlens
    from medlens.run_dir import RunDir


# Nothing that a browser may do by itself, so that what is asked for is asked for by the page.
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OVERHANG = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Whether an element stands on the screen now, with nothing over it.
IN_SIGHT = """one => {
  const {x, y, width, height} = one.getBoundingClientRect();
  return one.contains(document.elementFromPoint(x + width / 2, y + height / 2));
}"""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project, which users do not have."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("MEDLENS_SHARED", beside))
    if not (folder / "data").is_dir():
        pytest.skip("the shared real images are not on this machine (see MEDLENS_SHARED)")
    return folder


@pytest.fixture(
    params=[
        (1400, "light"),
        (390, "dark"),
        # Each width and each scheme once; the other two pairs with the slow tests.
        pytest.param((1400, "dark"), marks=pytest.mark.slow),
        pytest.param((390, "light"), marks=pytest.mark.slow),
    ],
    ids=lambda screen: "-".join(map(str, screen)),
)
def screen(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A width in pixels and a colour scheme, as pages are opened with."""
    width, scheme = request.param
    return {"width": width, "scheme": scheme}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of features for the whole session, so that the network runs once per picture."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket on an S3 server of this computer alone."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "no-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Local copies of what lies there.
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("copies")),
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="images")
        yield "s3://images"
    server.stop()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels.csv of 150 phantoms of 64 px in three classes, with patients."""
    from medlens.data.phantom import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", images=150, seed=0)


@pytest.fixture(scope="session")
def finished_run(
    phantoms: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> medlens.Run:
    """A run with everything in it: an operating point, subgroups, heat maps, robustness."""
    import medlens

    return medlens.train(
        phantoms,
        out=tmp_path_factory.mktemp("finished") / "run",
        weights="random",
        image_size=32,
        epochs=15,
        positive_class="mass",
        robustness=True,
        cache=str(cache),
        quiet=True,
    )


@pytest.fixture
def own_run(finished_run: medlens.Run, tmp_path: Path) -> RunDir:
    """A copy of it whose files a test may change; of the network there is the folder alone."""
    from medlens.run_dir import RunDir

    large = shutil.ignore_patterns("classifier.keras", "figures", "*.png")
    return RunDir(Path(shutil.copytree(finished_run.path, tmp_path / "run", ignore=large)))


@pytest.fixture(scope="session")
def as_owner() -> Callable[[], AbstractContextManager[None]]:
    """Work in this thread as somebody whom permissions bind, whoever runs the tests."""
    if hasattr(os, "geteuid") and os.geteuid():
        return nullcontext
    if sys.platform != "linux":
        pytest.skip("permissions do not bind whoever runs the tests")
    system, version, capabilities = ctypes.CDLL(None, use_errno=True), 0x20080522, (1, 2)
    header, sets = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()

    @contextmanager
    def bound() -> Iterator[None]:
        assert system.capget(header, sets) == 0
        effective = sets[0]
        sets[0] &= ~sum(1 << one for one in capabilities)  # those that read what is closed
        assert system.capset(header, sets) == 0
        try:
            yield
        finally:
            sets[0] = effective
            assert system.capset(header, sets) == 0

    return bound


@dataclass
class Visit:
    """A page in the browser, and all that it said and asked for.

    Args:
        page: The page.
        own: How an address begins that the page may ask for.
        said: What it wrote to the console, and its errors.
        asked: The addresses that it asked for.
    """

    page: Page
    own: tuple[str, ...]
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What axe-core finds, each with the place of it."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]

    def overhang(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return int(self.page.evaluate(OVERHANG))

    def focused(self) -> str:
        """What the keyboard is on: its id, or its class where it has none."""
        name = "() => document.activeElement.id || document.activeElement.className"
        return str(self.page.evaluate(name))

    def reach(self, name: str) -> None:
        """Go to an element by the Tab key alone; whatever it comes by has to show that it does."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            ring = self.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", self.focused()
            if self.focused() == name:
                return
        raise AssertionError(f"{name} is not reached by the Tab key")

    def forgive(self, words: str) -> None:
        """Strike out what the browser itself said of something that the test has done to it."""
        self.said[:] = [line for line in self.said if words not in line]

    def has_in_sight(self, text: str, within: str = "body") -> bool:
        """Whether a text stands on the screen now, with nothing over it."""
        return bool(self.page.locator(within).get_by_text(text).first.evaluate(IN_SIGHT))


# Not for the session: while Playwright runs, no other test could run an event loop.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """An installed browser; none is ever downloaded."""
    try:
        program = find_chromium()
    except MedlensError:
        pytest.skip("no Chromium, Chrome or Edge is installed on this machine")
    # Chromium's sandbox refuses to run as root.
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = [*QUIET, "--no-sandbox"] if is_root else list(QUIET)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens a page; when the test ends, it must have been quiet and asked nobody else."""
    visits: list[Visit] = []

    def opened(
        address: str,
        width: int = 1400,
        scheme: Literal["light", "dark"] = "light",
        script: str = "",
    ) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        context.set_default_timeout(120_000)  # milliseconds; a machine may be busy
        page = context.new_page()
        base = address.partition("#")[0]
        made = Visit(page, (base, f"blob:{base}", "data:image/"))
        visits.append(made)
        page.add_init_script(script)
        page.on("console", lambda message: made.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: made.said.append(f"error: {error}"))
        page.on("request", lambda request: made.asked.append(request.url))
        page.goto(address)
        return made

    yield opened
    for one in visits:
        one.page.context.close()
        # A status that the page handles is written to the console by the browser itself.
        refused = "error: Failed to load resource: the server responded with a status of "
        assert [line for line in one.said if not line.startswith(refused)] == []
        assert [url for url in one.asked if not url.startswith(one.own)] == []
