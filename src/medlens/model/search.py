"""Heads beyond the plan's candidates: drawn by Optuna, given up early by successive halving."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence

from medlens.errors import MedlensError
from medlens.model.head_plan import HeadForm

# Units of the hidden layers of a head that is drawn.
LAYERS: Mapping[str, tuple[int, ...]] = {
    "linear": (),
    "32": (32,),
    "64": (64,),
    "128": (128,),
    "256": (256,),
    "512": (512,),
    "128,32": (128, 32),
    "256,64": (256, 64),
    "512,128": (512, 128),
}
MOST_DROPOUT, DROPOUT_STEP = 0.7, 0.05
WEIGHT_DECAYS = (1e-4, 10.0)
# After 3, 9, 27 ... epochs the better third goes on (Li et al. 2020, arXiv:1810.05934).
FIRST_RUNG, KEPT = 3, 3

# A depth set and a form.
Drawn = tuple[str, HeadForm]
# Told an epoch and the lowest loss so far; says whether to give up.
GiveUp = Callable[[int, float], bool]


def check_optuna() -> None:
    """Say how to install Optuna where it is missing.

    Raises:
        MedlensError: If it is.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MedlensError(
            "--search needs the package Optuna.",
            got="no such package",
            expected="optuna, 4.5 or newer",
            fix="pip install 'medlens[search]', or leave --search out.",
        )


def search_heads(
    names: Sequence[str],
    known: Mapping[Drawn, float],
    count: int,
    seed: int,
    measure: Callable[[Drawn, GiveUp], tuple[float, bool]],
) -> None:
    """Try further heads, each drawn in the light of those before (Optuna's TPE sampler).

    Args:
        names: The depth sets.
        known: The loss of heads tried before.
        count: How many to draw.
        seed: Of the sampler.
        measure: Trains one; gives its loss and whether it was given up.
    """
    import optuna

    # Optuna tells of every trial on the screen by itself.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "features": optuna.distributions.CategoricalDistribution(list(names)),
        "units": optuna.distributions.CategoricalDistribution(list(LAYERS)),
        "dropout": optuna.distributions.FloatDistribution(0.0, MOST_DROPOUT, step=DROPOUT_STEP),
        "weight_decay": optuna.distributions.FloatDistribution(*WEIGHT_DECAYS, log=True),
    }
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=FIRST_RUNG, reduction_factor=KEPT
        ),
    )
    for (name, form), loss in known.items():
        parameters = _parameters(name, form)
        if parameters is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params=parameters, distributions=distributions, value=loss
                )
            )
    for _ in range(count):
        trial = study.ask(distributions)
        drawn = trial.params

        def give_up(epoch: int, loss: float, trial: optuna.Trial = trial) -> bool:
            trial.report(loss, epoch)
            return bool(trial.should_prune())

        form = HeadForm(
            LAYERS[drawn["units"]],
            round(float(drawn["dropout"]), 2),
            float(f"{drawn['weight_decay']:.2g}"),
        )
        loss, is_given_up = measure((str(drawn["features"]), form), give_up)
        state = optuna.trial.TrialState.PRUNED if is_given_up else None
        study.tell(trial, None if is_given_up else loss, state=state)


def _parameters(name: str, form: HeadForm) -> dict[str, str | float] | None:
    """What Optuna calls a head; None where it would not draw such a one."""
    units = [word for word, layers in LAYERS.items() if layers == form.units]
    steps = form.dropout / DROPOUT_STEP
    is_drawn = form.dropout <= MOST_DROPOUT and abs(steps - round(steps)) < 1e-6
    low, high = WEIGHT_DECAYS
    if not units or not is_drawn or not low <= form.weight_decay <= high:
        return None
    return {
        "features": name,
        "units": units[0],
        "dropout": form.dropout,
        "weight_decay": form.weight_decay,
    }
