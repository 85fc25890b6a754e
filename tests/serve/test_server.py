"""What the routes answer, against the classifier itself."""

from __future__ import annotations

import base64
import io
import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pydicom.data
import pytest
from PIL import Image

from medlens.data.images import decode_image
from medlens.model.checksums import write_checksums
from medlens.model.classifier_files import CHECKSUMS_FILE
from medlens.serve.explain import explain_picture
from medlens.serve.launch import name_runs

if TYPE_CHECKING:
    import pandas as pd

    import medlens
    from medlens.model.classifier import Classifier

CT = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))


def upload(*paths: Path, field: str = "images") -> list[Any]:
    return [(field, (path.name, path.read_bytes())) for path in paths]


def assert_same(result: dict[str, Any], row: pd.Series) -> None:
    """An answer of the server, and the row of `predict` for the same file."""
    classes = [name.removeprefix("prob_") for name in row.index if name.startswith("prob_")]
    assert list(result["probabilities"]) == classes
    for name in classes:
        assert result["probabilities"][name] == pytest.approx(row[f"prob_{name}"], abs=1e-6)
    assert result["predicted"] == row["predicted"]
    assert (result["decision"] or "") == row["decision"]
    assert result["distance"] == pytest.approx(row["distance"], rel=1e-4)
    assert result["unfamiliar"] == bool(row["unfamiliar"])
    assert result["unreadable"] is None


def test_the_models_that_are_served(client: httpx.Client, classifier: Classifier) -> None:
    answer = client.get("/models").json()
    assert answer["notice"] == "Not a medical device."
    (model,) = answer["models"]
    point = classifier.facts["operating_point"]
    assert (model["name"], model["positive_class"]) == ("run", "mass")
    assert model["classes"] == list(classifier.classes)
    assert model["operating_point"]["threshold"] == point["threshold"]
    assert "mass" in model["operating_point"]["text"]
    assert model["prediction_set_level"] == 0.9
    assert (model["backbone"], model["image_size"]) == ("vgg16", 32)
    assert (model["has_similar"], model["has_similar_images"]) == (True, False)


def test_predictions_are_those_of_the_classifier_in_the_order_sent(
    client: httpx.Client, files: list[Path], expected: pd.DataFrame
) -> None:
    answer = client.post("/predict", files=upload(*files[:20])).json()
    assert (answer["model"], answer["notice"]) == ("run", "Not a medical device.")
    assert [one["name"] for one in answer["results"]] == [path.name for path in files[:20]]
    for result, (_, row) in zip(answer["results"], expected.iterrows(), strict=False):
        assert_same(result, row)
        assert result["predicted"] in result["prediction_set"]


def test_32_clients_get_their_own_answers(
    client: httpx.Client, files: list[Path], expected: pd.DataFrame
) -> None:
    def ask(number: int) -> tuple[int, dict[str, Any]]:
        place = number % len(files)
        response = client.post("/predict?model=run", files=upload(files[place]))
        assert response.status_code == 200
        return place, response.json()["results"]

    with ThreadPoolExecutor(32) as pool:
        for place, (result,) in pool.map(ask, range(128)):
            assert result["name"] == files[place].name
            assert_same(result, expected.iloc[place])


def test_a_bad_file_stops_no_other(client: httpx.Client, files: list[Path]) -> None:
    parts = [*upload(files[0]), ("images", ("notes.png", b"no picture")), *upload(files[1], CT)]
    response = client.post("/predict", files=parts)
    good, bad, other, ct = response.json()["results"]
    assert response.status_code == 200
    assert (good["unreadable"], other["unreadable"], ct["unreadable"]) == (None, None, None)
    assert bad["unreadable"].startswith("It is not a PNG")
    assert bad["unfamiliar"] is None
    assert (bad["predicted"], bad["probabilities"], bad["distance"]) == (None, None, None)


def test_where_no_file_can_be_read_the_status_says_so(client: httpx.Client) -> None:
    response = client.post("/predict", files=[("images", ("a.dcm", CT.read_bytes()[:3000]))])
    assert response.status_code == 422
    (result,) = response.json()["results"]
    assert result["unreadable"]


def test_what_a_file_is_its_content_says(client: httpx.Client, files: list[Path]) -> None:
    name = "../../etc/passwd\x00.exe"
    part = ("images", (name, files[0].read_bytes(), "application/x-msdownload"))
    (result,) = client.post("/predict", files=[part]).json()["results"]
    assert result["predicted"] is not None


@pytest.mark.parametrize(
    ("path", "parts", "status", "word"),
    [
        ("/predict?model=other", [("images", ("a", b"x"))], 404, "/models"),
        ("/predict", [("other", ("a", b"x"))], 422, "images"),
        ("/predict", [("images", (None, b"text"))], 422, "images"),
        ("/explain?class=other", [("image", ("a", b"x"))], 404, "class"),
        ("/explain", [("image", ("a", b"x")), ("image", ("b", b"x"))], 413, "1"),
        ("/explain", [("image", ("a", b"x"))], 422, "PNG"),
        ("/picture", [("image", ("a", b""))], 422, "empty"),
        ("/picture?model=other", [("image", ("a", b"x"))], 404, "/models"),
        ("/picture?window_center=40", [("image", ("a", b"x"))], 422, "window_width"),
        ("/picture?window_width=40", [("image", ("a", b"x"))], 422, "window_center"),
        ("/picture?window_width=0", [("image", ("a", b"x"))], 422, "window_width"),
        ("/picture?window_center=nan", [("image", ("a", b"x"))], 422, "window_center"),
    ],
)
def test_what_is_refused_says_why(
    client: httpx.Client, path: str, parts: list[Any], status: int, word: str
) -> None:
    response = client.post(path, files=parts)
    assert response.status_code == status
    assert word in response.json()["detail"]


def test_other_bodies_are_refused(client: httpx.Client) -> None:
    kind = "multipart/form-data; boundary=x"
    for content_type, status in (("image/png", 415), (kind, 422), ("multipart/form-data", 422)):
        response = client.post("/predict", content=b"abc", headers={"Content-Type": content_type})
        assert response.status_code == status
        assert response.json()["detail"]
    assert client.get("/predict").status_code == 405


SURROGATE = b'--x\r\nContent-Disposition: form-data; name="images"; filename="+2AA-"\r\n\r\n'


@pytest.mark.parametrize(
    ("options", "body", "status"),
    [
        ("charset=undefined", SURROGATE, 415),
        ("charset=utf-7", SURROGATE, 415),
        ('CharSet="UTF-7"', SURROGATE, 415),
        ("charset=", SURROGATE, 415),
        ("charset=utf-8; charset=utf-7", SURROGATE, 415),
        # 400 KB in this codec take many seconds, in which nothing else is answered.
        ("charset=punycode", SURROGATE.partition(b"; file")[0] + b"\r\n\r\n" + b"a" * 400_000, 415),
        # Forms that multipart bodies may not have (RFC 7578) name no charset and no file.
        ("charset*=utf-8''utf-7", SURROGATE, 422),
        ("", SURROGATE.replace(b'filename="', b"filename*=utf-7''").replace(b'-"', b"-"), 422),
        ("charset=UTF-8", SURROGATE, 422),
        ("charset=us-ascii", SURROGATE, 422),
    ],
    ids=lambda value: value[:28] if isinstance(value, str) else "",
)
def test_bodies_in_other_charsets_are_refused(
    client: httpx.Client, options: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=x;{options}"}
    response = client.post("/predict", content=body + b"\r\n--x--\r\n", headers=headers)
    assert response.status_code == status
    assert client.get("/health").status_code == 200


def decode_url(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_an_explanation_has_what_the_network_saw_and_heat_of_that_size(
    client: httpx.Client, files: list[Path], expected: pd.DataFrame, classifier: Classifier
) -> None:
    path = "/explain?class=mass"
    answer = client.post(path, files=upload(files[3], field="image")).json()
    assert_same(answer["prediction"], expected.iloc[3])
    assert (answer["class"], answer["dicom"]) == ("mass", None)
    picture, overlay = decode_url(answer["picture"]), decode_url(answer["overlay"])
    assert np.array_equal(np.asarray(picture.convert("RGB")), classifier.picture(files[3]))
    assert (overlay.mode, overlay.size) == ("RGBA", picture.size)
    own = explain_picture(
        classifier, classifier.picture(files[3]), classifier.classes.index("mass")
    )
    heat = np.asarray(overlay, np.float64)[..., 3] / 255
    assert np.abs(heat - own.heat).max() < 0.01
    assert [one["row"] for one in answer["similar"]] == [one.row for one in own.similar]
    assert [one["label"] for one in answer["similar"]] == [one.label for one in own.similar]
    assert len(answer["similar"]) == 5
    assert all(one["image"] is None for one in answer["similar"])  # not trained --with-images
    plain = client.post("/explain", files=upload(files[3], field="image")).json()
    assert plain["class"] == plain["prediction"]["predicted"]


def test_a_ct_slice_comes_with_its_window_and_is_shown_in_any(client: httpx.Client) -> None:
    answer = client.post("/explain", files=upload(CT, field="image")).json()
    window = answer["dicom"]
    # The file names no window: it is shown from its lowest to its highest value.
    assert window["low"] == window["window_center"] - window["window_width"] / 2
    assert window["high"] == window["window_center"] + window["window_width"] / 2

    def look(**parameters: float) -> np.ndarray:
        parts = upload(CT, field="image")
        response = client.post("/picture", params=parameters, files=parts)
        assert response.headers["content-type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(response.content)).convert("L"), np.float64)

    own = look()
    assert own.shape == (128, 128)
    assert (own.min(), own.max()) == (0, 255)
    # Everything lies below a window that begins at the highest value, and above one that ends low.
    assert look(window_center=window["high"] + 500, window_width=10).max() == 0
    assert look(window_center=window["low"] - 500, window_width=10).min() == 255


def test_a_large_picture_is_shown_reduced(client: httpx.Client) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3000, 1500), (200, 10, 10)).save(stream, "PNG")
    response = client.post("/picture", files=[("image", ("a.png", stream.getvalue()))])
    shown = Image.open(io.BytesIO(response.content))
    assert (shown.size, shown.getpixel((5, 5))) == ((1024, 512), (200, 10, 10))


def test_report_and_model_card_are_one_click_away(
    client: httpx.Client, finished_run: medlens.Run
) -> None:
    (model,) = client.get("/models").json()["models"]
    report = client.get(model["report"])
    assert report.content == finished_run.report.read_bytes()
    assert "script-src" not in report.headers["content-security-policy"]
    card = client.get(model["model_card"])
    assert card.headers["content-type"] == "text/plain; charset=utf-8"
    assert client.get("/models/other/report").status_code == 404
    assert client.get("/models/..%2f..%2fetc/report").status_code == 404


def test_the_page_and_nothing_else_comes_from_its_folder(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/static/index.html").content == page.content
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/%2fetc%2fpasswd"):
        assert client.get(path).status_code == 404
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404


def test_every_route_is_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert {"/predict", "/explain", "/picture", "/models", "/health", "/ready", "/metrics"} <= set(
        document["paths"]
    )
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert list(body) == ["multipart/form-data"]


def test_the_counters_count(client: httpx.Client, files: list[Path]) -> None:
    def read(name: str) -> float:
        text = client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    names = ('medlens_requests_total{method="POST",path="/predict"', "medlens_batch_images_sum")
    before = [read(name) for name in names]
    assert client.post("/predict", files=upload(*files[:3])).status_code == 200
    after = [read(name) for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 3]
    assert read("medlens_queue_images") == 0
    assert read("medlens_ready") == 1


def test_neither_names_nor_tags_are_logged(
    server: Any, client: httpx.Client, finished_run: medlens.Run
) -> None:
    data = CT.read_bytes()
    patient = pydicom.dcmread(io.BytesIO(data)).PatientName
    for path, field in (("/predict", "images"), ("/explain", "image"), ("/static/mustermann", "x")):
        client.post(f"{path}?name=mustermann", files=[(field, ("mustermann.dcm", data))])
    client.post("/predict", files=[("images", ("mustermann.dcm", data[:5000]))])
    client.get("/static/mustermann.html")
    said = server.said()
    assert "POST /predict 200" in said
    assert "mustermann" not in said
    assert str(patient) not in said
    assert str(finished_run.path) not in said


def use_frame(folder: Path, frame: int) -> None:
    """Make a classifier see another frame of DICOM files."""
    facts = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(json.dumps({**facts, "frame": frame}))
    listed = (folder / CHECKSUMS_FILE).read_text().splitlines()
    write_checksums(folder, [line.split()[1] for line in listed])


def test_several_models_are_told_apart(
    start: Any, finished_run: medlens.Run, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(finished_run.path / "classifier", tmp_path / "classifier"))
    use_frame(alone, 0)
    assert list(name_runs([alone, alone])) == ["classifier", "classifier-2"]
    with start(finished_run.path, alone) as server:
        models = httpx.get(f"{server.url}/models", timeout=60).json()["models"]
        assert [one["name"] for one in models] == ["run", "classifier"]
        assert [one["report"] is None for one in models] == [False, True]
        image = [("images", ("a.png", b"x"))]
        response = httpx.post(f"{server.url}/predict", files=image, timeout=60)
        assert response.status_code == 422
        assert "model" in response.json()["detail"]
        many = Path(str(pydicom.data.get_testdata_file("rtdose.dcm"))).read_bytes()
        for name, frame in (("classifier", 0), ("run", 7)):
            address = f"{server.url}/picture?model={name}"
            shown = httpx.post(address, files=[("image", ("a", many))], timeout=60).content
            picture = np.asarray(Image.open(io.BytesIO(shown)).convert("L"))
            assert np.array_equal(picture, decode_image(many, frame=frame).pixels[..., 0])
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
