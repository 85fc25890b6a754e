from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from medlens.config import FIELDS, Options, config_toml, differences, make_options, read_config
from medlens.data.images import FITS
from medlens.errors import MedlensError


def test_every_default_is_allowed_and_survives_toml() -> None:
    options = make_options({"data": "somewhere"})
    again = make_options(tomllib.loads(config_toml(options)))
    assert again == options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split", "0.7,0.2"),
        ("split", "0.8,0.3,0.1"),
        ("split", "1,0,0"),
        ("split", "-0.2,0.6,0.6"),
        ("image_size", "huge"),
        ("image_size", 5),
        ("epochs", 2.5),
        ("epochs", "0"),
        ("dropout", 1.0),
        ("stop_at_accuracy", 0),
        ("stop_at_accuracy", 98),
        ("learning_rate", "fast"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("fit", "squeeze"),
        ("backbone", "vgg61"),
        ("resume", "yes"),
        ("seed", True),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name: str, value: Any) -> None:
    with pytest.raises(MedlensError, match="--" + name.replace("_", "-")) as caught:
        make_options({name: value})
    assert str(value) in caught.value.got


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("split", (0.6, 0.2, 0.2), "0.6,0.2,0.2"),
        ("split", (1 / 3, 1 / 3, 1 / 3), ",".join([repr(1 / 3)] * 3)),
        ("split", "my/splits.csv", "my/splits.csv"),
        ("stop_at_accuracy", "none", "none"),
        ("stop_at_accuracy", "0.9", 0.9),
        ("image_size", "96", 96),
        ("drop_class", "A", ("A",)),
        ("drop_class", ["A", "B"], ("A", "B")),
        ("frame", "3", 3),
    ],
)
def test_values_from_text_and_from_python(name: str, value: Any, expected: Any) -> None:
    assert getattr(make_options({name: value}), name) == expected


def test_an_unknown_option_gets_a_suggestion() -> None:
    with pytest.raises(MedlensError) as caught:
        make_options({"stop_at_acuracy": 0.9})
    assert "stop_at_accuracy" in caught.value.fix


def test_differences_between_a_run_and_new_options(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(config_toml(Options(data="d")), encoding="utf-8")
    before = read_config(path)
    assert differences(before, Options(data="d", out="elsewhere", resume=True)) == []
    assert differences(before, Options(data="d", epochs=7)) == ["epochs"]


def test_a_config_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("epochs = = 3", encoding="utf-8")
    with pytest.raises(MedlensError, match="--config"):
        read_config(path)


def test_every_fit_that_images_know_can_be_asked_for() -> None:
    assert [make_options({"fit": fit}).fit for fit in FITS] == list(FITS)


def test_every_option_has_help_that_ends_in_a_full_stop() -> None:
    assert all(field.metadata["help"].endswith(".") for field in FIELDS.values())


@pytest.mark.parametrize("name", ["out", "exclude", "split", "plan", "weights"])
def test_an_option_of_this_machine_takes_no_address(name: str) -> None:
    with pytest.raises(MedlensError, match=r"cannot be used|takes no address"):
        make_options({name: "s3://bucket/folder/file.csv"})
    assert make_options({"data": "s3://bucket/data", "cache": "s3://bucket/cache"})


def test_a_signed_address_is_refused_and_not_shown() -> None:
    for name in ("data", "cache"):
        with pytest.raises(MedlensError, match="may be a key") as error:
            make_options({name: "https://storage/data.csv?signature=secret"})
        assert "secret" not in f"{error.value}{error.value.names}"
