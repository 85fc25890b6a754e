"""The commands. No logic: options in, a call, a message, an exit status."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medlens.api import new_screen
from medlens.config import (
    AUDIT_OPTIONS,
    EVALUATE_OPTIONS,
    FIELDS,
    PLAN_OPTIONS,
    SERVE_FIELDS,
    UI_FIELDS,
    Fields,
    Kind,
    Options,
    flag_name,
    make_options,
    make_serve_options,
    make_ui_options,
    read_config,
)
from medlens.data.remote import open_path
from medlens.errors import MedlensError
from medlens.start_up import without_start_up_noise

DONE, MENDABLE, OUR_FAULT, NOT_WHOLE = 0, 2, 1, 3
EXPORT_FORMATS = ("savedmodel", "onnx", "litert", "openvino")
NAMES_SHOWN = 10
GOES_ON = "the same command goes on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 (done), 2 (the user can mend it), 3 (done, but some images are missing) or 1 (our fault).
    """
    # Pillow's own complaints about a damaged file would come on top of ours; Ray talks of itself.
    for library in ("PIL", "ray"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    given = vars(_parser().parse_args(arguments))
    command: Callable[[dict[str, Any]], int] = given.pop("command")
    goes_on = _how_to_go_on(given.pop("goes_on"), given)
    try:
        return command(given)
    except MedlensError as error:
        _print_error(error)
        return MENDABLE
    except KeyboardInterrupt:
        kept = f" Nothing that is finished is lost: {goes_on}." if goes_on else ""
        print(f"\nInterrupted.{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except OSError as error:
        _print_error(_from_system(error, goes_on))
        return MENDABLE
    except Exception as error:  # the last net: the person gets a sentence, not a traceback
        from medlens.log import describe_failure

        print(
            f"medlens failed ({type(error).__name__}). This is our fault, not yours.\n"
            "  Please report what follows; it stands in log.txt of the run as well.\n"
            + describe_failure(error),
            file=sys.stderr,
        )
        return OUR_FAULT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medlens",
        description="From a folder of labelled medical images to a tested classifier. "
        "Not a medical device.",
    )
    parser.add_argument("--version", action="version", version=version("medlens"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _add(commands, "train", _train, "Audit, split, features, head, evaluation, report.")
    train.set_defaults(goes_on=f"{GOES_ON} with --resume")
    _add_options(train, [name for name in FIELDS if name != "data"])
    train.add_argument(
        "--config", metavar="FILE", help="TOML file of options; those given here win."
    )
    audit = _add(commands, "audit", _audit, "Say what is wrong with a data set.")
    _add_options(audit, [name for name in AUDIT_OPTIONS if name != "data"])
    plan = _add(commands, "plan", _plan, "Say what `train` would decide for a data set, and why.")
    _add_options(plan, [name for name in PLAN_OPTIONS if name != "data"])
    for command in (train, audit, plan):
        is_needed = "?" if command is train else None
        data_help = FIELDS["data"].metadata["help"]
        command.add_argument("data", metavar="DATA", nargs=is_needed, help=data_help)
    evaluate = _add(
        commands, "evaluate", _evaluate, "Test the classifier of a run on other, external images."
    )
    evaluate.add_argument("run", metavar="RUN", help="A finished run.")
    evaluate.add_argument("data", metavar="DATA", help=FIELDS["data"].metadata["help"])
    _add_options(evaluate, EVALUATE_OPTIONS)
    report = _add(
        commands, "report", _report, "Write the report anew, with the answers in study.toml."
    )
    report.add_argument("run", metavar="RUN", help="A finished run.")
    _add_options(report, ["pdf"])
    compare = _add(commands, "compare", _compare, "Compare two runs on the same test set, paired.")
    compare.add_argument("first", metavar="RUN", help="A finished run.")
    compare.add_argument("second", metavar="RUN", help="Another, with the same test set.")
    compare.add_argument("-o", "--output", metavar="FILE", help="Writes all numbers as JSON.")
    _add_export(commands)
    predict = _add(
        commands,
        "predict",
        _predict,
        "Say what a finished classifier sees in new images. Goes on after bad files; when it was "
        "interrupted, the same command goes on. Exit status: 0 all images answered, 3 "
        "finished, but some refused (the result has the reason of each) or a folder not opened, 2 "
        "an error to mend.",
    )
    explain = _add(
        commands,
        "explain",
        _explain,
        "Show where new images speak for a class, and which training cases are most like them. "
        "Goes on as `predict` does; exit status as there.",
    )
    for command in (predict, explain):
        command.set_defaults(goes_on=GOES_ON)
        command.add_argument(
            "run", metavar="RUN", help="A run, its classifier folder alone, or a run as .zip."
        )
        command.add_argument(
            "inputs",
            metavar="INPUT",
            nargs="+",
            help="Images, folders of images (DICOM studies too), CSV or Parquet files with a "
            "column path or file, or patterns in quotes; here or on other storage (s3://...).",
        )
    predict.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Where the predictions go: .csv, .json, .jsonl or .parquet (default: the screen).",
    )
    explain.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="The folder for the explanations."
    )
    explain.add_argument(
        "--class",
        metavar="NAME",
        dest="class_name",
        help="The class to explain (default: that which is predicted, image by image).",
    )
    _add_options(predict, ["ray", "overwrite", "quiet"])
    _add_options(explain, ["overwrite", "quiet"])
    serve = _add(
        commands,
        "serve",
        _serve,
        "Answer over HTTP, with a web page. On this computer alone unless --host says otherwise.",
    )
    serve.add_argument("runs", metavar="RUN", nargs="+", help="Finished runs, also as .zip.")
    _add_options(serve, SERVE_FIELDS, SERVE_FIELDS)
    ui = _add(commands, "ui", _ui, "The whole road on a page in the browser, without code.")
    _add_options(ui, UI_FIELDS, UI_FIELDS)
    demo = _add(commands, "demo", _demo, "Train on a synthetic phantom data set.")
    _add_options(demo, ["out", "cache", "overwrite", "quiet"])
    _add(commands, "doctor", _doctor, "Say what this machine has: backend, GPU, weights, extras.")
    return parser


def _add_export(commands: Any) -> None:
    export = _add(
        commands, "export", _export, "Write the classifier for another runtime, proved equal there."
    )
    export.add_argument(
        "run", metavar="RUN", help="A run, its classifier folder alone, or a run as .zip."
    )
    export.add_argument(
        "--format",
        required=True,
        choices=EXPORT_FORMATS,
        help="savedmodel: TensorFlow; onnx: ONNX Runtime and others; litert: phones and small "
        "computers; openvino: Intel's processors.",
    )
    export.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="What to write: FILE.onnx, FILE.tflite (litert), FILE.xml (openvino), a folder "
        "(savedmodel); and FILE.json, with what belongs to it.",
    )
    export.add_argument(
        "--images",
        metavar="DIR",
        default="",
        help="Images to compare on. (default: some of the run's test images, if they are still at "
        "their place, else synthetic ones)",
    )
    export.add_argument(
        "--int8",
        action="store_true",
        help="litert only: convolutions in 8-bit integers, with the loss in accuracy measured.",
    )
    export.add_argument(
        "--overwrite", action="store_true", help="Replaces an export of medlens that is there."
    )
    _add_options(export, ["cache", "quiet"])


def _add(commands: Any, name: str, run: Callable[[dict[str, Any]], int], does: str) -> Any:
    parser = commands.add_parser(name, help=does, description=does)
    parser.set_defaults(command=run, goes_on="")
    return parser


def _how_to_go_on(goes_on: str, given: Mapping[str, Any]) -> str:
    """How a command goes on after a break; "" where it keeps nothing of its result."""
    # What `predict` shows on the screen is not kept.
    return goes_on if given.get("output", "a file") is not None else ""


def _add_options(
    parser: argparse.ArgumentParser, names: Iterable[str], fields: Fields = FIELDS
) -> None:
    groups: dict[str, Any] = {}
    for name in names:
        metadata = fields[name].metadata
        kind: Kind = metadata["kind"]
        title = metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        text = f"{metadata['help']} (default: {default_text(fields[name])})".replace("%", "%%")
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if not kind.metavar:
            group.add_argument(flag_name(name), action="store_true", **common)
        elif fields[name].default == ():
            group.add_argument(flag_name(name), action="append", metavar=kind.metavar, **common)
        else:
            group.add_argument(flag_name(name), metavar=kind.metavar, **common)


def default_text(field: dataclasses.Field[Any]) -> str:
    """An option's default as it is shown in help and docs."""
    default = field.default
    if default is False:  # and not 0, which is equal to it
        return "no"
    return "none" if default in ((), "") else str(default)


def _options(given: dict[str, Any]) -> Options:
    config = given.pop("config", None)
    given = {name: value for name, value in given.items() if value is not None}
    base = read_config(Path(config)) if config else {}
    options = make_options({**base, **given})
    if not options.data:
        raise MedlensError(
            "The data set is not named.",
            got="neither DATA nor a --config that holds it",
            expected="a folder with one sub-folder per class, a CSV or an .npz file",
            fix="medlens train DATA --out RUN",
        )
    return options


def _train(given: dict[str, Any]) -> int:
    options = _options(given)
    with without_start_up_noise():
        from medlens.pipeline import run_training

    run_training(options, new_screen(options.quiet))
    return DONE


def _audit(given: dict[str, Any]) -> int:
    options = _options(given)
    from medlens.intake import run_audit

    would_train = run_audit(options, new_screen(options.quiet))
    return DONE if would_train else MENDABLE


def _plan(given: dict[str, Any]) -> int:
    options = _options(given)
    with without_start_up_noise():
        from medlens.planning import run_plan

    would_train = run_plan(options, new_screen(options.quiet))
    return DONE if would_train else MENDABLE


def _evaluate(given: dict[str, Any]) -> int:
    run = given.pop("run")
    options = _options(given)
    with without_start_up_noise():
        from medlens.external import evaluate_externally
    from medlens.run_dir import RunDir

    evaluate_externally(RunDir(Path(run)), options, new_screen(options.quiet))
    return DONE


def _report(given: dict[str, Any]) -> int:
    from medlens.run import Run

    report = Run(Path(given["run"])).write_report(pdf=given.get("pdf", False))
    also = f" and {report.with_suffix('.pdf').name}" if given.get("pdf", False) else ""
    print(f"Report: {report}{also}")
    return DONE


def _compare(given: dict[str, Any]) -> int:
    with without_start_up_noise():
        from medlens.report.compare import compare_lines
    from medlens.api import compare
    from medlens.files import write_json

    compared = compare(given["first"], given["second"])
    print("\n".join(compare_lines(compared)))
    if given["output"]:
        write_json(Path(given["output"]), compared)
        print(f"All numbers: {given['output']}")
    return DONE


def _export(given: dict[str, Any]) -> int:
    from medlens.api import export

    # The converters write there as well, all through their work.
    with without_start_up_noise():
        export(given.pop("run"), out=given.pop("output"), **given)
    return DONE


def _predict(given: dict[str, Any]) -> int:
    with without_start_up_noise():
        from medlens.prediction import predict_on_screen, run_predict

    screen = new_screen(given.get("quiet", False))
    run, inputs, output = given["run"], given["inputs"], given["output"]
    if output is None:
        lines, refused = predict_on_screen(run, inputs, screen)
        print("\n".join(lines))
        return NOT_WHOLE if refused else DONE
    overwrite = given.get("overwrite", False)
    ray = given.get("ray", make_options({}).ray)
    outcome = run_predict(
        run, inputs, open_path(output), overwrite=overwrite, ray=ray, screen=screen
    )
    if screen.quiet:  # no part of the result, but nothing to be lost
        for line in outcome.retried:
            print(line, file=sys.stderr)
    return DONE if outcome.is_whole else NOT_WHOLE


def _explain(given: dict[str, Any]) -> int:
    with without_start_up_noise():
        from medlens.prediction import run_explain

    outcome = run_explain(
        given["run"],
        given["inputs"],
        open_path(given["output"]),
        class_name=given["class_name"],
        overwrite=given.get("overwrite", False),
        screen=new_screen(given.get("quiet", False)),
    )
    return DONE if outcome.is_whole else NOT_WHOLE


def _serve(given: dict[str, Any]) -> int:
    runs = [Path(run) for run in given.pop("runs")]
    options = make_serve_options(given)
    from medlens.serve.launch import Settings, serve
    from medlens.serve.limits import MIB, Limits

    body = int(options.max_body * MIB)
    limits = Limits(
        body=body,
        bodies=max(Limits.bodies, body),
        images=options.max_images,
        pixels=int(options.max_pixels * 1e6),
        queue=max(options.queue, options.max_images),
        seconds=options.time_limit,
        head_seconds=min(Limits.head_seconds, options.time_limit),
    )
    settings = Settings(options.host, options.port, options.token, options.allowed_host, limits)
    _log_to_screen()
    serve(runs, settings, _say)
    return DONE


def _ui(given: dict[str, Any]) -> int:
    options = make_ui_options(given)
    from medlens.ui.launch import run_ui

    _log_to_screen()
    run_ui(options, _say)
    return DONE


def _log_to_screen() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("medlens").setLevel(logging.INFO)
    # A line for every damaged body: clients could flood the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _say(line: str) -> None:
    print(line, flush=True)


def _demo(given: dict[str, Any]) -> int:
    with without_start_up_noise():
        from medlens.demo import run_demo

    run_demo(given, new_screen(given.get("quiet", False)))
    return DONE


def _doctor(given: dict[str, Any]) -> int:
    from medlens.environment import describe_machine

    with without_start_up_noise():
        lines = describe_machine()
    print("\n".join(lines))
    return DONE


def _from_system(error: OSError, goes_on: str) -> MedlensError:
    """What the operating system refused, as an error that a person can mend."""
    kept = f" What is finished is kept: {goes_on}." if goes_on else ""
    return MedlensError(
        "A file or folder cannot be used.",
        got=error.strerror or type(error).__name__,
        expected="a disk with room, and folders that can be read and written",
        fix=f"Check the path, its permissions and the free space.{kept}",
        names=[str(error.filename)] if error.filename else [],
    )


def _print_error(error: MedlensError) -> None:
    print(f"medlens: {error}", file=sys.stderr)
    for name in error.names[:NAMES_SHOWN]:
        print(f"    {name}", file=sys.stderr)
    if len(error.names) > NAMES_SHOWN:
        print(f"    and {len(error.names) - NAMES_SHOWN:,} more", file=sys.stderr)
