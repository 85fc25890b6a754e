"""Every option once. TOML, command line and docs come from these declarations."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from medlens.data.augmentation import PRESETS
from medlens.errors import MedlensError, in_words
from medlens.model.backbone import BACKBONES
from medlens.model.own_backbone import PREPROCESSING, are_backbones


@dataclass(frozen=True)
class Kind:
    """What an option accepts.

    Args:
        parse: Turns a value from the command line (text), TOML or Python into the option's value;
            raises ValueError where it cannot.
        expected: The allowed values in words, for errors, help and docs.
        metavar: The placeholder in help; empty for a flag.
        words: The words it accepts, where it accepts nothing else.
    """

    parse: Callable[[Any], Any]
    expected: str
    metavar: str
    words: tuple[str, ...] = ()


def _text(expected: str, metavar: str = "TEXT") -> Kind:
    return Kind(str, expected, metavar)


def _choice(*values: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError(value)
        return str(value)

    return Kind(parse, " or ".join(values), "|".join(values), values)


def _backbones() -> Kind:
    """Names of the table or .keras files, with commas."""

    def parse(value: Any) -> str:
        if not are_backbones(value):
            raise ValueError(value)
        return str(value)

    expected = "one or several, none twice, of " + ", ".join(BACKBONES) + ", or .keras files"
    return Kind(parse, expected, "NAME|FILE.keras[,...]")


def _number(
    kind: type[int | float], low: float, high: float, *words: str, open_low: bool = False
) -> Kind:
    """An int or float from low to high, or one of some words such as `auto`."""

    def parse(value: Any) -> int | float | str:
        if isinstance(value, str) and value in words:
            return value
        if isinstance(value, bool) or (kind is int and float(value) != int(float(value))):
            raise ValueError(value)
        number = kind(float(value))
        if not low <= number <= high or (open_low and number == low):
            raise ValueError(value)
        return number

    noun = "a whole number" if kind is int else "a number"
    above = "above" if open_low else "from"
    expected = f"{noun} {above} {low:g} to {high:g}" + "".join(f", or {word}" for word in words)
    return Kind(parse, expected, "|".join((*words, "N" if kind is int else "X")))


def _head() -> Kind:
    def parse(value: Any) -> int | str:
        if value in ("auto", "linear"):
            return str(value)
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError(value)
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        units = [int(part) for part in parts]
        if not 1 <= len(units) <= 3 or not all(1 <= one <= 8192 for one in units):
            raise ValueError(value)
        return units[0] if len(units) == 1 else ",".join(map(str, units))

    expected = "auto, linear, or the units of one to three layers, each 1 to 8192 (256 or 256,64)"
    return Kind(parse, expected, "auto|linear|N[,N]")


def _flag() -> Kind:
    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value

    return Kind(parse, "true or false", "")


def _rule() -> Kind:
    def parse(value: Any) -> str:
        from medlens.model.operating_point import parse_rule  # NumPy waits until it is needed

        return parse_rule(str(value)).text

    expected = (
        "youden, sensitivity=0.95 or specificity=0.95 (a share above 0 and below 1), or "
        "cost=FN:FP (what a missed positive and a false alarm cost, such as cost=5:1)"
    )
    return Kind(parse, expected, "RULE")


def _names(expected: str) -> Kind:
    def parse(value: Any) -> tuple[str, ...]:
        return (value,) if isinstance(value, str) else tuple(str(name) for name in value)

    return Kind(parse, expected, "NAME")


def _some_of(*words: str) -> Kind:
    def parse(value: Any) -> tuple[str, ...]:
        given = [value] if isinstance(value, str) else list(value)
        found = [name for one in given for name in str(one).split(",")]
        if not set(found) <= set(words):
            raise ValueError(value)
        return tuple(dict.fromkeys(found))

    expected = "one or several, with commas, of " + ", ".join(words)
    return Kind(parse, expected, "|".join(words))


def _split() -> Kind:
    def parse(value: Any) -> str:
        if isinstance(value, list | tuple):
            value = ",".join(repr(float(ratio)) for ratio in value)
        if str(value) == "auto" or str(value).lower().endswith(".csv"):
            return str(value)
        ratios = parse_ratios(str(value))
        if min(ratios) <= 0 or abs(sum(ratios) - 1) > 1e-6:
            raise ValueError(value)
        return str(value)

    expected = (
        "three shares for train, val and test, each above 0, that add up to 1 (0.7,0.15,0.15), "
        "or auto, or a splits.csv"
    )
    return Kind(parse, expected, "TRAIN,VAL,TEST|FILE")


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Read `0.7,0.15,0.15` as three numbers.

    Raises:
        ValueError: If the text does not hold three numbers.
    """
    train, val, test = (float(part) for part in text.split(","))
    return train, val, test


def option(default: Any, kind: Kind, group: str, does: str, *, what: bool = True) -> Any:
    """Declare one option as a dataclass field.

    Args:
        default: Its value when nobody says otherwise.
        kind: What it accepts.
        group: Its heading in the help and the docs.
        does: One sentence for the help and the docs.
        what: Whether it says what is computed (and so stands in config.toml) or only how to run.
    """
    metadata = {"kind": kind, "group": group, "help": does, "what": what}
    return dataclasses.field(default=default, metadata=metadata)


DATA = "data"
SPLIT = "split"
NETWORK = "backbone and features"
HEAD = "head and training"
EVIDENCE = "evidence and report"
RUN = "run"
ADDRESS = "address and access"
LIMITS = "limits"

DEFAULT_RATIOS = (0.7, 0.15, 0.15)


# What these name is opened by this machine's file system alone.
ON_THIS_MACHINE = ("out", "exclude", "split", "plan", "weights")


@dataclass(frozen=True)
class Options:
    """All options of `medlens train`; `medlens audit` takes those of data and split."""

    data: str = option(
        "",
        _text("a folder, a CSV, a Parquet or an .npz file", "DATA"),
        DATA,
        "Folder with one sub-folder per class (also below train/val/test), a CSV or Parquet file "
        "with the columns path,label, or a MedMNIST .npz file.",
    )
    patient_regex: str = option(
        "",
        _text("a regular expression with one group, such as (P[0-9]+)_", "REGEX"),
        DATA,
        "Finds the patient in each file's path: the regular expression's first group.",
    )
    frame: int | str = option(
        "middle",
        _number(int, 0, 1_000_000, "middle"),
        DATA,
        "Which frame of a multi-frame DICOM file to use, counted from 0.",
    )
    drop_class: tuple[str, ...] = option(
        (),
        _names("names of classes"),
        DATA,
        "Leaves a class out; may be given several times.",
    )
    exclude: str = option(
        "",
        _text("a CSV with a column path", "FILE"),
        DATA,
        "Leaves out the images that a CSV lists in its column path, written as in dataset.csv.",
    )
    drop_conflicts: bool = option(
        False, _flag(), DATA, "Leaves out all copies of an image that has different labels."
    )
    min_per_class: int = option(
        10,
        _number(int, 3, 1_000_000),
        DATA,
        "A class with fewer images than this stops the run.",
    )
    split: str = option(
        "auto",
        _split(),
        SPLIT,
        "Shares of train, val and test, or a splits.csv to use as it is. auto: the split that the "
        "data brings, else 0.7,0.15,0.15.",
    )
    resolve_leaks: bool = option(
        False,
        _flag(),
        SPLIT,
        "Mends a given split that patients or copies cross: test stays whole, the others give way.",
    )
    plan: str = option(
        "auto",
        _text("auto, plain, or a plan.json", "auto|plain|FILE"),
        NETWORK,
        "auto: what is not asked for is decided by the data, and measured on development images; "
        "plain: the last layer, one Dense head of 256 units, nothing chosen; or a plan.json or "
        "the folder with it, of `medlens plan` or of a run.",
    )
    backbone: str = option(
        "vgg16",
        _backbones(),
        NETWORK,
        "The pretrained network, frozen, without its top: a name, or a .keras file of yours. "
        "Several with commas are compared on train, and the best goes on. Names: "
        + ", ".join(BACKBONES)
        + ".",
    )
    augmentation: str = option(
        "none",
        _choice("none", "auto", *PRESETS),
        NETWORK,
        "Views of train's images, as far as the modality allows, which the head is also fitted on "
        "where that measures better on images held out. auto: the preset of the modality guessed.",
    )
    views: int = option(
        4,
        _number(int, 1, 64),
        NETWORK,
        "Views of each image of train with --augmentation; each costs one more pass of the "
        "network, once.",
    )
    test_time_averaging: bool = option(
        False,
        _flag(),
        NETWORK,
        "Every picture is also seen in the mirror images and turns that its modality allows, and "
        "the logits are averaged, in testing and in use. The modality is that of --augmentation, "
        "or the one guessed.",
    )
    search: int = option(
        0,
        _number(int, 0, 10_000),
        NETWORK,
        "Tries so many further heads, drawn by Optuna, beside those of the plan; most are given up "
        "early.",
    )
    weights: str = option(
        "imagenet",
        _text("imagenet, random, or a weights file", "imagenet|random|FILE"),
        NETWORK,
        "The backbone's weights: Keras's ImageNet file, a file of yours, or random filters. One "
        "for each of several backbones that are named, with commas.",
    )
    preprocessing: str = option(
        "auto",
        _choice("auto", *PREPROCESSING),
        NETWORK,
        "How a .keras file of yours wants its pixels: none: 0 to 255; tf: -1 to 1; torch: "
        "ImageNet's mean and spread; caffe: BGR without ImageNet's mean. auto: none, where the "
        "file begins with Rescaling or Normalization.",
    )
    image_size: int | str = option(
        "auto",
        _number(int, 32, 1024, "auto"),
        NETWORK,
        "Side of the square the network sees, in pixels. auto: the smallest of 64, 96, 128, 160, "
        "224 that is not below twice the median longer side, at most 224.",
    )
    fit: str = option(
        "pad",
        _choice("pad", "crop", "stretch"),
        NETWORK,
        "How a picture becomes square: pad with black, crop its centre, or stretch.",
    )
    features: str = option(
        "auto",
        _choice("auto", "all", "deep", "last"),
        NETWORK,
        "Features pooled from all depths of the backbone, from the deeper half, or from its last "
        "layer alone. auto: as measured on development images.",
    )
    engine: str = option(
        "auto",
        _choice("auto", "keras", "ncnn"),
        NETWORK,
        "What runs the frozen network. auto: on a GPU Keras; on a processor ncnn, where that is "
        "much faster (VGG) and gives Keras's features on a few of your images.",
    )
    head: int | str = option(
        "auto",
        _head(),
        HEAD,
        "Units of the head's hidden Dense layers; linear: none. auto: as measured on development "
        "images.",
    )
    dropout: float | str = option(
        "auto",
        _number(float, 0, 0.95, "auto"),
        HEAD,
        "Share of the inputs of the head's last layer dropped while it trains. auto: as measured "
        "on development images.",
    )
    epochs: int = option(100, _number(int, 1, 100_000), HEAD, "Most epochs to train the head for.")
    batch_size: int = option(64, _number(int, 1, 65_536), HEAD, "Images in a step of training.")
    learning_rate: float = option(
        1e-3, _number(float, 0, 10, open_low=True), HEAD, "Adam's learning rate."
    )
    stop_at_accuracy: float | str = option(
        0.98,
        _number(float, 0, 1, "none", open_low=True),
        HEAD,
        "Training stops once this accuracy is reached; none: never for that reason.",
    )
    stop_on: str = option(
        "val",
        _choice("val", "train"),
        HEAD,
        "The split whose accuracy --stop-at-accuracy looks at.",
    )
    patience: int = option(
        10,
        _number(int, 1, 100_000),
        HEAD,
        "Training stops after this many epochs without a lower validation loss.",
    )
    fine_tune: int | str = option(
        "none",
        _number(int, 1, 20, "none"),
        HEAD,
        "Also trains so many of the backbone's last blocks, with the head, on new views in every "
        "epoch. Used only where images held out surely gain by it. Slow without a GPU.",
    )
    fine_tune_epochs: int = option(
        20, _number(int, 1, 100_000), HEAD, "Most epochs to fine-tune for."
    )
    fine_tune_learning_rate: float = option(
        1e-4,
        _number(float, 0, 10, open_low=True),
        HEAD,
        "Adam's highest learning rate in fine-tuning, reached after the first epoch; it then "
        "falls to 0.",
    )
    class_weight: str = option(
        "auto",
        _choice("auto", "none", "balanced", "logit_adjusted"),
        HEAD,
        "balanced: each class counts the same in the loss, however many images it has; "
        "logit_adjusted: rare classes are favoured afterwards. auto: as measured on development "
        "images, where the largest class has at least 1.5 times the images of the smallest.",
    )
    positive_class: str = option(
        "auto",
        _text("auto, or the name of a class", "auto|NAME"),
        HEAD,
        "The class that counts as positive. auto: the second of two in sorted order.",
    )
    operating_point: str = option(
        "youden",
        _rule(),
        EVIDENCE,
        "How the threshold of the positive class is chosen, on development images alone.",
    )
    prevalence: float | str = option(
        "none",
        _number(float, 0, 1, "none", open_low=True),
        EVIDENCE,
        "Share of positive cases where the classifier shall be used: precision and negative "
        "predictive value are also given for it.",
    )
    folds: int | str = option(
        "none",
        _number(int, 2, 20, "none"),
        EVIDENCE,
        "Cross-validation: every image not in a given test set is tested once, by a classifier "
        "that never saw its group. For small data sets.",
    )
    robustness: bool = option(
        False,
        _flag(),
        EVIDENCE,
        "Also tests on at most 200 test images that are mildly blurred, noisy, compressed, "
        "brighter, darker or turned.",
    )
    no_saliency: bool = option(False, _flag(), EVIDENCE, "Draws no heat maps.")
    no_images: bool = option(
        False, _flag(), EVIDENCE, "Keeps pictures and file names out of the report."
    )
    with_images: bool = option(
        False,
        _flag(),
        EVIDENCE,
        "Stores small pictures of the training images with the classifier; `explain` and `serve` "
        "then show the most similar ones. Without it no picture leaves with the classifier.",
    )
    pdf: bool = option(
        False, _flag(), EVIDENCE, "Also prints the report as report.pdf, by an installed Chromium."
    )
    seed: int = option(
        0,
        _number(int, 0, 2**31 - 1),
        RUN,
        "Seed of split, head and bootstrap: same seed, same files.",
    )
    track: tuple[str, ...] = option(
        (),
        _some_of("tensorboard", "mlflow", "mlflow_server"),
        RUN,
        "Shows training in TensorBoard or MLflow as well, in the run folder; mlflow_server: on a "
        "server of yours, at MLFLOW_TRACKING_URI. May be given several times.",
        what=False,
    )
    out: str = option("", _text("a folder", "RUN"), RUN, "The run folder to write.", what=False)
    cache: str = option(
        "auto",
        _text("auto, or a folder", "auto|DIR"),
        RUN,
        "Where pictures and features are kept between runs. auto: the user's cache folder. "
        "Features may also lie on other storage, such as s3://BUCKET/FOLDER.",
        what=False,
    )
    ray: str = option(
        "none",
        _text("none, local, auto, or the address of a Ray cluster", "none|local|ADDRESS"),
        RUN,
        "Goes through the images on a Ray cluster: local starts one on this machine, auto is that "
        "which this machine belongs to, and HOST:PORT another.",
        what=False,
    )
    resume: bool = option(False, _flag(), RUN, "Goes on with an interrupted run.", what=False)
    overwrite: bool = option(
        False, _flag(), RUN, "Replaces an existing run folder, or result.", what=False
    )
    quiet: bool = option(False, _flag(), RUN, "Prints nothing but errors.", what=False)


@dataclass(frozen=True)
class ServeOptions:
    """All options of `medlens serve`."""

    host: str = option(
        "127.0.0.1",
        _text("an address or name of this computer", "ADDRESS"),
        ADDRESS,
        "Where to listen. With any other than 127.0.0.1, ::1 or localhost a token is required; "
        "0.0.0.0 is every address.",
    )
    port: int = option(
        8000, _number(int, 0, 65_535), ADDRESS, "The port to listen on; 0 for one that is free."
    )
    token: str = option(
        "",
        _text("a word that is hard to guess"),
        ADDRESS,
        "What requests have to bring as `Authorization: Bearer TOKEN`. Better given as the "
        "variable MEDLENS_TOKEN: other users of the computer can see a command line. Where one is "
        "required and none given, one is made and printed.",
    )
    allowed_host: tuple[str, ...] = option(
        (),
        _names("names of hosts"),
        ADDRESS,
        "A further name by which browsers may call the server, such as that of a proxy before it; "
        "a token is required then. May be given several times.",
    )
    max_body: float = option(
        100.0,
        _number(float, 0, 4096, open_low=True),
        LIMITS,
        "The largest request, in MiB.",
    )
    max_images: int = option(64, _number(int, 1, 4096), LIMITS, "The most images in a request.")
    max_pixels: float = option(
        40.0,
        _number(float, 0, 100, open_low=True),
        LIMITS,
        "The largest image, in millions of pixels.",
    )
    queue: int = option(
        256,
        _number(int, 1, 65_536),
        LIMITS,
        "The most images of all requests under way; further requests are told to try again.",
    )
    time_limit: float = option(
        60.0,
        _number(float, 0, 3600, open_low=True),
        LIMITS,
        "What a request may take, in seconds.",
    )


@dataclass(frozen=True)
class UiOptions:
    """All options of `medlens ui`."""

    root: str = option(
        "",
        _text("a folder", "DIR"),
        ADDRESS,
        "The folder that the page may see: data and runs are below it, and nothing else is shown.",
    )
    port: int = option(
        8765, _number(int, 0, 65_535), ADDRESS, "The port to listen on; 0 for one that is free."
    )
    no_browser: bool = option(False, _flag(), ADDRESS, "Opens no browser; the address is printed.")
    cache: str = option(
        "auto",
        _text("auto, or a folder", "auto|DIR"),
        RUN,
        "Where pictures and features are kept between runs. auto: the user's cache folder.",
    )


Fields = Mapping[str, dataclasses.Field[Any]]
FIELDS: Fields = {field.name: field for field in dataclasses.fields(Options)}
SERVE_FIELDS: Fields = {field.name: field for field in dataclasses.fields(ServeOptions)}
UI_FIELDS: Fields = {field.name: field for field in dataclasses.fields(UiOptions)}
AUDIT_OPTIONS = (
    *(name for name, field in FIELDS.items() if field.metadata["group"] in (DATA, SPLIT)),
    "seed",
    "cache",
    "ray",
    "out",
    "quiet",
)

# The options that decide what a plan decides.
PLANNED = (
    "backbone",
    "image_size",
    "fit",
    "features",
    "head",
    "dropout",
    "class_weight",
    "augmentation",
    "fine_tune",
)
PLAN_OPTIONS = (*AUDIT_OPTIONS, "plan", *PLANNED, "overwrite")
EVALUATE_OPTIONS = ("patient_regex", "drop_class", "prevalence", "out", "overwrite", "quiet")


def flag_name(name: str) -> str:
    """The option as it is typed: `image_size` is `--image-size`."""
    return "--" + name.replace("_", "-")


def make_options(given: Mapping[str, Any]) -> Options:
    """Check values from the command line, TOML or Python, and fill in the defaults.

    Args:
        given: Values by option name.

    Raises:
        MedlensError: If a name is unknown or a value is not allowed.
    """
    options = Options(**_parse(given, FIELDS, "train"))
    for name in ON_THIS_MACHINE:
        if "://" in getattr(options, name):
            raise MedlensError(
                f"The option {flag_name(name)} takes no address.",
                got=f"an address of {getattr(options, name).partition('://')[0]}://",
                expected="a path of this machine; addresses go with DATA, --cache, and the inputs "
                "and the -o of predict",
                fix="Name a file or a folder of this machine.",
            )
    for address in (options.data, options.cache):
        _check_without_keys(address)
    return options


def _check_without_keys(address: str) -> None:
    """Refuse a signed address: config.toml and dataset.csv would keep its keys."""
    if address.lower().startswith(("http://", "https://")) and "?" in address:
        raise MedlensError(
            "An address holds a query, which may be a key.",
            got="a question mark in an address",
            expected="an address without keys: config.toml and dataset.csv keep it as it is",
            fix="Put keys where the storage's client looks for them: the environment, or its "
            "configuration file.",
        )


def make_serve_options(given: Mapping[str, Any]) -> ServeOptions:
    """The same for the options of `medlens serve`.

    Raises:
        MedlensError: If a name is unknown or a value is not allowed.
    """
    return ServeOptions(**_parse(given, SERVE_FIELDS, "serve"))


def make_ui_options(given: Mapping[str, Any]) -> UiOptions:
    """The same for the options of `medlens ui`.

    Raises:
        MedlensError: If a name is unknown or a value is not allowed.
    """
    return UiOptions(**_parse(given, UI_FIELDS, "ui"))


def _parse(given: Mapping[str, Any], fields: Fields, command: str) -> dict[str, Any]:
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise _unknown_option(name, fields, command)
        kind: Kind = fields[name].metadata["kind"]
        try:
            values[name] = kind.parse(value)
        except (ValueError, TypeError, OverflowError):
            raise MedlensError(
                f"The option {flag_name(name)} cannot be used.",
                got=str(value),
                expected=kind.expected,
                fix=f"Give one of these; `medlens {command} --help` explains every option.",
            ) from None
    return values


def _unknown_option(name: str, fields: Fields, command: str) -> MedlensError:
    near = difflib.get_close_matches(name, fields, n=1)
    return MedlensError(
        "There is no such option.",
        got=name,
        expected="one of " + ", ".join(fields),
        fix=f"Did you mean {near[0]}?" if near else f"`medlens {command} --help` lists them all.",
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read option values from a TOML file such as a run's config.toml.

    Raises:
        MedlensError: If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MedlensError(
            "The file given with --config cannot be read.",
            got=in_words(error),
            expected="a TOML file of options, such as the config.toml of a run",
            fix="Check the path, or copy the config.toml of an earlier run and edit it.",
            names=[str(path)],
        ) from None


def config_toml(options: Options) -> str:
    """All options that say what is computed, also the defaults, as TOML with comments."""
    lines = ["# All options of this run; `medlens train --config FILE --out RUN` repeats it.", ""]
    for name, field in FIELDS.items():
        if field.metadata["what"]:
            lines += [
                f"# {field.metadata['help']}",
                tomli_w.dumps({name: _plain(getattr(options, name))}).strip(),
            ]
    return "\n".join(lines) + "\n"


def differences(before: Mapping[str, Any], options: Options) -> list[str]:
    """The names of the options whose values differ from those of an earlier config.toml."""
    return [name for name in _what_names() if before.get(name) != _plain(getattr(options, name))]


def _what_names() -> Iterable[str]:
    return (name for name, field in FIELDS.items() if field.metadata["what"])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
