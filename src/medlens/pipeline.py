"""The story of `train`: audit, split, features, head, classifier, evaluation, report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medlens.config import Options
from medlens.data.scan import PictureRule, Pictures
from medlens.data.split import splits_to_csv
from medlens.data.store import Store
from medlens.environment import cache_folder, check_disk_space, environment_json
from medlens.files import remove, write_json, write_text
from medlens.fine_tuning import Candidate, tune_network, write_other_predictions
from medlens.intake import (
    choose_positive_class,
    dataset_csv,
    divide,
    frame,
    image_size,
    list_images,
    only_worker,
    sample_pictures,
    say_baseline,
    say_images,
    show_findings,
    stop_at_errors,
    take_in,
)
from medlens.log import log_to
from medlens.model.development import develop
from medlens.model.plan import head_space
from medlens.network import (
    choose_passes,
    find_networks,
    passes_per_image,
    run_networks,
    with_side_of,
)
from medlens.planning import averaged_modality, decide, settle
from medlens.progress_file import kept_progress
from medlens.report.advice import advise
from medlens.report.facts import averaging_facts, result_lines, training_facts
from medlens.report.pdf import find_chromium
from medlens.report.predictions import predict_all, read_predictions, write_predictions
from medlens.report.publish import publish
from medlens.report.study import read_study
from medlens.run import Run
from medlens.run_dir import RunDir, open_run
from medlens.screen import Screen
from medlens.stages import (
    base_head,
    describe_classifier,
    fold_column,
    plan_choices,
    run_folds,
    say_choice,
    write_evidence,
    write_plan,
)
from medlens.tracking import track


def run_training(asked: Options, screen: Screen) -> Run:
    """Train a classifier and write the run folder, stage by stage.

    Every stage is deterministic and what is slow is kept by content, so that an interrupted run
    goes on by running this again.

    Raises:
        MedlensError: If the user can mend what is wrong.
    """
    with only_worker(asked.out):
        return _train(asked, screen)


def _train(asked: Options, screen: Screen) -> Run:
    # What there is, and whether the weights can be had, before anything is slow or replaced.
    options, given_plan = settle(asked)
    dataset = list_images(options)
    classes = dataset.classes
    positive_class = choose_positive_class(classes, options)
    networks = find_networks(options)
    options = with_side_of([backbone for backbone, _ in networks], options)
    if options.pdf:
        find_chromium()
    if options.out:
        read_study(RunDir(Path(options.out)))
    run = open_run(asked)
    with (
        kept_progress(run.progress, "train") as watched,
        log_to(run.log),
        track(options, run) as tracking,
    ):
        screen = replace(screen, watched=watched)
        watched.begin("Looking at the images and the network")
        say_images(dataset, positive_class, screen)

        # Read every file once: facts for the audit, a picture for the network.
        rule = PictureRule(image_size(dataset, options, screen), options.fit)
        cache = cache_folder(options.cache)
        sample = partial(sample_pictures, dataset, rule, frame(options))
        passes = choose_passes(networks, rule, options, cache, sample, screen)

        # Views are made of pictures, and which are wanted is known once the plan is.
        kinds = (options.augmentation, options.fine_tune)
        wants_views = options.test_time_averaging or any(one != "none" for one in kinds)
        known = () if wants_views else tuple(one.features for one in passes)
        pictures = Pictures(rule, Store(run.pictures / rule.name), known)
        count = len(dataset.table)
        check_disk_space(run.root, count * rule.bytes_per_picture, "pictures")
        for one in passes:
            size = count * one.frozen_pass.bytes_per_image * passes_per_image(options)
            check_disk_space(one.features.folder, size, "features")
        intake = take_in(dataset, options, screen, pictures)
        write_json(run.audit, intake.audit_json())
        show_findings(intake, screen, ("error", "warning"))
        stop_at_errors(intake, options)

        # Split, in whole groups.
        table = divide(intake, options, screen)
        decisions, fingerprint = decide(intake.table, dataset, options, rule.size, given_plan)
        averaged = averaged_modality(options, decisions, fingerprint)
        write_text(run.dataset, dataset_csv(table, dataset.left_out))
        used = table.assign(dataset_row=np.arange(len(table)))[table["split"] != ""]
        used = used.reset_index(drop=True)

        # Each frozen network, once per image; of several the best goes on.
        labels = np.searchsorted(classes, used["label"])
        base = base_head(options)
        network = run_networks(
            passes,
            used,
            labels,
            decisions,
            averaged,
            base,
            pictures.store,
            run,
            options,
            cache,
            screen,
        )
        views, symmetric = network.views, network.symmetric

        # The head on the features, and everything that is chosen on development images.
        space = head_space(decisions, base, network.frozen_pass.backbone, options.search)
        choices = plan_choices(options, classes, positive_class)
        say_baseline(used, screen)
        count = space.size + (views is not None)
        with screen.progress("Training heads", count, "candidates") as progress:
            development = develop(
                network.matrix,
                used,
                labels,
                len(classes),
                space,
                choices,
                progress,
                choice=network.among.choice if network.among and views is None else None,
                views=views,
                symmetric=symmetric,
                callbacks=[*tracking.callbacks(), watched.callback("head")],
            )
        say_choice(development, screen)
        write_plan(run, decisions, fingerprint, development, network.among)
        folds, development = run_folds(
            network.matrix,
            used,
            labels,
            space,
            choices,
            development,
            views,
            symmetric,
            options,
            screen,
        )
        write_text(
            run.splits, splits_to_csv(table, table["split"], fold_column(table, used, folds))
        )

        facts = training_facts(network.frozen_pass, development, network.among, views)

        # Where it is asked for: the last blocks as well, used only if images held out say so.
        fine_tuning = tune_network(
            Candidate(network, development),
            used,
            labels,
            decisions,
            fingerprint.modality,
            choices,
            pictures.store,
            run,
            options,
            cache,
            screen,
        )
        if fine_tuning:
            network, development = fine_tuning.used.network, fine_tuning.used.development
            facts |= averaging_facts(development)
        frozen_pass, matrix = network.frozen_pass, network.matrix
        write_text(run.history, development.training.history.to_csv(index=False))
        tracking.replay(development.training.history)
        facts["fine_tuning"] = fine_tuning.facts() if fine_tuning else None
        if retried := screen.retried[len(intake.retried) :]:
            facts["retried"] = retried
        write_json(run.training, facts)
        watched.begin("Testing")

        # What is said about every image; from that table alone, every number. Meanwhile the
        # classifier is saved: one network from raw pixels to probabilities, in its own folder.
        said_of_all = predict_all(
            matrix, used, development, folds, classes, positive_class, network.symmetric
        )
        write_predictions(run.predictions, said_of_all)
        predictions = read_predictions(run.predictions)
        if fine_tuning:
            write_other_predictions(run, fine_tuning, used, classes, positive_class)
        described = describe_classifier(
            development, classes, positive_class, network.features, options, matrix, used
        )
        evaluation = write_evidence(
            run,
            predictions,
            used,
            dataset,
            development,
            folds,
            described,
            frozen_pass,
            options,
            fine_tuning,
        )
        write_json(
            run.environment, environment_json(options.seed, table, frozen_pass.weights.sha256)
        )
        for passing in set(run.passing()) - {run.progress}:
            remove(passing)

        tracking.tell(evaluation)

        # The report.
        watched.begin("Writing the report")
        publish(run, pdf=options.pdf)
        said = list(evaluation["notices"])
        said += [*result_lines(evaluation), *advise(evaluation, facts), f"Report: {run.report}"]
        screen.say("\n".join(said))
        screen.say("Not a medical device.")
    return Run(run.root)
