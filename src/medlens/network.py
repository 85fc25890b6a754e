"""The stages of `train` about the frozen network: options into backbones, and one of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medlens.config import FIELDS, Options
from medlens.data.augmentation import PRESETS
from medlens.data.scan import PictureRule
from medlens.data.store import Store
from medlens.data.symmetries import (
    MOST_SYMMETRIES,
    ReadPictures,
    read_symmetric,
    symmetric_keys,
)
from medlens.data.views import read_views, view_keys
from medlens.errors import MedlensError
from medlens.model.averaging import Symmetric
from medlens.model.backbone import Backbone
from medlens.model.backbone_choice import BackboneChoice, Contender, choose_backbone
from medlens.model.classifier_graph import feature_columns
from medlens.model.engine import FrozenPass, choose_pass
from medlens.model.features import (
    extract_features,
    feature_store,
    gather_features,
    unknown_keys,
)
from medlens.model.head_plan import HeadPlan
from medlens.model.own_backbone import find_backbone, is_own
from medlens.model.plan import Decisions, gathered_features, head_space
from medlens.model.view_features import Views
from medlens.model.weights import Weights, find_weights
from medlens.report.failures import draw_view_sheet
from medlens.run_dir import RunDir
from medlens.scale.cluster import LOCAL, NONE, connected
from medlens.scale.features import SeenAs, extract_on_cluster
from medlens.scale.processor import find_precision
from medlens.screen import Screen

Networks = list[tuple[Backbone, Weights]]


class Extracted(NamedTuple):
    """A frozen pass and where its features are kept."""

    frozen_pass: FrozenPass
    features: Store


def find_networks(options: Options) -> Networks:
    """The backbones that --backbone names, with their weights.

    Raises:
        MedlensError: If one cannot be had, or options contradict each other.
    """
    names = options.backbone.split(",")
    if options.fine_tune != "none" and options.folds != "none":
        raise MedlensError(
            "--folds and --fine-tune exclude each other.",
            got=f"--folds {options.folds} with --fine-tune {options.fine_tune}",
            expected="a test set apart, or a backbone that stays frozen",
            fix="Fine-tune without --folds, or leave --fine-tune out.",
        )
    if len(names) > 1 and options.folds != "none":
        raise MedlensError(
            "--folds and several backbones exclude each other.",
            got=f"--folds {options.folds} with {len(names)} backbones",
            expected="one backbone: the choice would have seen the images that each fold tests",
            fix="Compare the backbones without --folds, or name one of them.",
        )
    given = _weights_of(names, options.weights)
    return [
        (backbone, find_weights(backbone, weights, seed=options.seed))
        for backbone, weights in zip(find_backbones(options), given, strict=True)
    ]


def _weights_of(names: Sequence[str], weights: str) -> list[str]:
    """What --weights says of each backbone; a .keras file among several has its own."""
    if len(names) == 1:
        return [weights]
    known = [name for name in names if not is_own(name)]
    given = weights.split(",")
    if len(given) == 1 and given[0] in ("imagenet", "random"):
        given *= len(known)
    if len(given) != len(known):
        raise MedlensError(
            "--weights and --backbone do not go together.",
            got=f"{len(given)} weights for {len(known)} backbones by name",
            expected="imagenet, random, or one for each of them in their order, with commas",
            fix="For example --backbone vgg16,resnet50 --weights imagenet,resnet50.h5.",
        )
    in_turn = iter(given)
    return ["imagenet" if is_own(name) else next(in_turn) for name in names]


def find_backbones(options: Options) -> list[Backbone]:
    """The backbones that --backbone names."""
    names = options.backbone.split(",")
    # What --preprocessing says is about files; the table knows its own.
    several = len(names) > 1
    return [
        find_backbone(name, options.preprocessing if is_own(name) or not several else "auto")
        for name in names
    ]


def with_side_of(backbones: Sequence[Backbone], options: Options) -> Options:
    """The options with the image size that a backbone insists on.

    Raises:
        MedlensError: If two insist on different sizes, or an option asks for another.
    """
    sides = {backbone.side for backbone in backbones if backbone.side is not None}
    if not sides:
        return options
    asked = {*sides, options.image_size} - {FIELDS["image_size"].default}
    if len(asked) > 1:
        raise MedlensError(
            "A backbone takes pictures of one size only.",
            got=" and ".join(f"{side} px" for side in sorted(asked, key=str)),
            expected="one size for all: " + " or ".join(f"{side} px" for side in sorted(sides)),
            fix="Leave --image-size out, or save the network with an Input of (None, None, 3).",
        )
    return dataclasses.replace(options, image_size=sides.pop())


def choose_passes(
    networks: Networks,
    rule: PictureRule,
    options: Options,
    cache: Path,
    read_pictures: Callable[[], NDArray[np.uint8]],
    screen: Screen,
) -> list[Extracted]:
    """The engine of each network, and where its features are."""
    found = _precision_on_cluster(options)
    if found is not None:
        runs_on, precision = found
        passes = [
            FrozenPass(*network, rule, "keras", precision, processor=runs_on)
            for network in networks
        ]
    else:
        passes = [
            choose_pass(*network, rule, options.engine, cache, read_pictures, screen.say)
            for network in networks
        ]
    return [Extracted(one, feature_store(cache, one)) for one in passes]


def _precision_on_cluster(options: Options) -> tuple[str, str] | None:
    """Processor and precision on the cluster; None where this machine is like its nodes."""
    if options.ray in (NONE, LOCAL) or options.engine == "ncnn":
        return None
    with connected(options.ray):
        return find_precision()


def choose_among(
    extracted: Sequence[Extracted],
    used: pd.DataFrame,
    labels: NDArray[np.int64],
    decisions: Decisions,
    base: HeadPlan,
    search: int,
    run: RunDir,
    screen: Screen,
) -> BackboneChoice | None:
    """The backbone to go on with, chosen on train alone; None where there is only one.

    Args:
        extracted: One per backbone, with the features of all images.
        used: One row per image.
        labels: Class numbers of shape (images,).
        decisions: Of the plan.
        base: How heads are trained.
        search: How many further heads are drawn for each.
        run: Features larger than memory are put there.
        screen: Told what was chosen and why.
    """
    if len(extracted) == 1:
        return None
    gathered = gathered_features(decisions)
    spaces = [head_space(decisions, base, one.frozen_pass.backbone, search) for one in extracted]

    def load(place: int) -> Contender:
        backbone, store = extracted[place].frozen_pass.backbone, extracted[place].features
        columns = feature_columns(backbone, gathered)
        keys = list(used["pixels_sha256"])
        return gather_features(keys, store, columns, run.features), spaces[place]

    names = [one.frozen_pass.backbone.name for one in extracted]
    count = sum(space.size for space in spaces)
    with screen.progress("Comparing backbones", count, "candidates") as progress:
        chosen = choose_backbone(
            names, load, used, labels, int(labels.max()) + 1, base.seed, progress
        )
    screen.say(f"Chosen backbone: {chosen.name}. {chosen.reason}")
    return chosen


def may_be_augmented(used: pd.DataFrame, options: Options) -> NDArray[np.bool_]:
    """Images that heads are fitted on: those of train, in cross-validation also those of val."""
    splits = ["train"] if options.folds == "none" else ["train", "val"]
    return used["split"].isin(splits).to_numpy()


def passes_per_image(options: Options) -> int:
    """How often the network runs for an image at most: for itself, and for each view."""
    symmetries = MOST_SYMMETRIES if options.test_time_averaging else 1
    return symmetries + (options.views if options.augmentation != "none" else 0)


def run_once(
    title: str,
    unit: str,
    keys: Sequence[str],
    extracted: Extracted,
    pictures: Store,
    seen_as: SeenAs,
    ray: str,
    cache: Path,
    screen: Screen,
) -> None:
    """Run a network once for every picture whose features are not known yet, with progress.

    Args:
        title: Of the progress.
        unit: What a step of it is.
        keys: Content keys of the pictures, or of views of them.
        extracted: The network; its store receives the features.
        pictures: Holds the pictures.
        seen_as: Makes of what reads pictures what reads these keys.
        ray: "none", or the Ray cluster that runs it.
        cache: The cache folder.
        screen: Shows the progress.
    """
    frozen_pass, features = extracted
    count = unknown_keys(keys, features)
    with (
        connected(ray if count else NONE) as is_connected,
        screen.progress(title, count, unit) as progress,
    ):
        if is_connected:
            extract_on_cluster(
                keys,
                frozen_pass,
                features,
                pictures,
                seen_as,
                cache=cache,
                progress=progress,
                say=screen.say_retried,
            )
        else:
            load = partial(frozen_pass.forward, cache)
            read = seen_as(pictures.read)
            extract_features(keys, load, read, features, progress, screen.say)


def as_they_are(read: ReadPictures) -> ReadPictures:
    """Pictures seen without any change."""
    return read


def extract_views(
    used: pd.DataFrame,
    preset: str,
    extracted: Extracted,
    pictures: Store,
    options: Options,
    cache: Path,
    screen: Screen,
) -> None:
    """Run the network once for each view of the images that heads are fitted on.

    Args:
        used: One row per image.
        preset: Of the augmentation.
        extracted: The network; its store receives the features.
        pictures: Holds the pictures.
        options: Say how many views.
        cache: The cache folder.
        screen: Shows the progress.
    """
    keys = list(used.loc[may_be_augmented(used, options), "pixels_sha256"])
    wanted = view_keys(keys, preset, options.views)
    seen_as = partial(read_views, preset=preset)
    run_once("Views", "views", wanted, extracted, pictures, seen_as, options.ray, cache, screen)


def gather_views(
    used: pd.DataFrame,
    preset: str,
    extracted: Extracted,
    columns: slice | NDArray[np.intp],
    run: RunDir,
    options: Options,
) -> Views:
    """The features of all views, as `extract_views` left them."""
    owner = np.flatnonzero(may_be_augmented(used, options))
    keys = view_keys(list(used["pixels_sha256"].iloc[owner]), preset, options.views)
    matrix = gather_features(keys, extracted.features, columns, run.view_features)
    return Views(matrix, np.repeat(owner, options.views), preset, options.views)


def run_symmetric(
    used: pd.DataFrame,
    modality: str,
    extracted: Extracted,
    columns: slice | NDArray[np.intp],
    pictures: Store,
    path: Path,
    ray: str,
    cache: Path,
    screen: Screen,
) -> Symmetric:
    """Run the network once for each image, also of val and test, in each symmetry.

    Args:
        used: One row per image.
        modality: Says which symmetries there are; more than one.
        extracted: The network; its store receives the features.
        columns: Which features.
        pictures: Holds the pictures.
        path: The file for what is larger than memory.
        ray: "none", or the Ray cluster that runs it.
        cache: The cache folder.
        screen: Shows the progress.
    """
    count = PRESETS[modality].symmetries
    wanted = symmetric_keys(list(used["pixels_sha256"]), count)
    run_once("Symmetries", "views", wanted, extracted, pictures, read_symmetric, ray, cache, screen)
    matrix = gather_features(wanted, extracted.features, columns, path)
    return Symmetric(matrix, modality, count)


@dataclass(frozen=True)
class Gathered:
    """What heads are trained on.

    Args:
        frozen_pass: The network.
        among: Why this one, where there were several.
        features: "all" or "last": which of its features these are.
        matrix: Of shape (images, columns); may lie on disk.
        views: Those of the views; None without augmentation.
        symmetric: Those of the symmetries; None without test-time averaging.
    """

    frozen_pass: FrozenPass
    among: BackboneChoice | None
    features: str
    matrix: NDArray[np.float32]
    views: Views | None
    symmetric: Symmetric | None


def run_networks(
    passes: Sequence[Extracted],
    used: pd.DataFrame,
    labels: NDArray[np.int64],
    decisions: Decisions,
    averaged: str | None,
    base: HeadPlan,
    pictures: Store,
    run: RunDir,
    options: Options,
    cache: Path,
    screen: Screen,
) -> Gathered:
    """Run each network once per image, take the best of several, and the views for that one.

    Args:
        passes: The networks.
        used: One row per image.
        labels: Class numbers of shape (images,).
        decisions: Of the plan.
        averaged: The modality whose symmetries are averaged over; None for none.
        base: How heads are trained.
        pictures: Holds the pictures whose features are not known.
        run: What is larger than memory is put there, and the sheet of views.
        options: Say how many views.
        cache: The cache folder.
        screen: Shows the progress.
    """
    keys = list(used["pixels_sha256"])
    for one in passes:
        title = "Frozen network" + f" {one.frozen_pass.backbone.name}" * (len(passes) > 1)
        run_once(title, "images", keys, one, pictures, as_they_are, options.ray, cache, screen)
    chosen = choose_among(passes, used, labels, decisions, base, options.search, run, screen)
    extracted = passes[chosen.place if chosen else 0]
    gathered = gathered_features(decisions)
    columns = feature_columns(extracted.frozen_pass.backbone, gathered)
    matrix = gather_features(keys, extracted.features, columns, run.features)
    views, preset = None, str(decisions["augmentation"].value)
    if preset != "none":
        extract_views(used, preset, extracted, pictures, options, cache, screen)
        views = gather_views(used, preset, extracted, columns, run, options)
        if not options.no_images:
            trained, count = used[used["split"] == "train"], options.views
            draw_view_sheet(trained, pictures.read, preset, count, run.view_sheet, options.seed)
    symmetric = None
    if averaged is not None:
        path = run.symmetric_features
        symmetric = run_symmetric(
            used, averaged, extracted, columns, pictures, path, options.ray, cache, screen
        )
    return Gathered(extracted.frozen_pass, chosen, gathered, matrix, views, symmetric)
