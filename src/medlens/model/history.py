"""What each epoch of training came to: the best weights, and when to stop and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from medlens.errors import MedlensError
from medlens.model.head_plan import HeadPlan

# (kernel, bias) of each Dense layer, float32.
Layers = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
WeightsOfEpoch = TypeVar("WeightsOfEpoch")


class History(Generic[WeightsOfEpoch]):
    """Keeps the history and the best weights, and says when to stop and why.

    Args:
        plan: When to stop.
        first: Stands for the best weights before the first epoch.
        rate: The option that says the learning rate.
    """

    def __init__(
        self, plan: HeadPlan, first: WeightsOfEpoch, rate: str = "--learning-rate"
    ) -> None:
        self.plan, self.rate = plan, rate
        self.rows: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_loss = np.inf
        self.best_weights = first
        self.stop_reason = ""
        self.stop_text = ""

    def note(self, figures: Mapping[str, float], weights: WeightsOfEpoch) -> None:
        """Note what an epoch came to."""
        epoch = len(self.rows) + 1
        self.rows.append({"epoch": epoch, **figures})
        if not np.isfinite([figures["loss"], figures["val_loss"]]).all():
            loss, val_loss = figures["loss"], figures["val_loss"]
            raise MedlensError(
                "Training went astray: the loss is not a number.",
                got=f"loss {loss}, validation loss {val_loss} in epoch {epoch}",
                expected="a finite loss",
                fix=f"Lower {self.rate}.",
            )
        plan = self.plan
        watched = figures["val_accuracy" if plan.stop_on == "val" else "accuracy"]
        is_reached = plan.stop_at_accuracy is not None and watched >= plan.stop_at_accuracy
        if figures["val_loss"] < self.best_loss or is_reached:
            # The network that reached the accuracy asked for is the one that is kept.
            self.best_loss, self.best_epoch = figures["val_loss"], epoch
            self.best_weights = weights
        if is_reached:
            split = "Validation" if plan.stop_on == "val" else "Training"
            self.stop_reason = "accuracy"
            self.stop_text = f"{split} accuracy {watched:.3f} reached {plan.stop_at_accuracy:g}."
        elif epoch - self.best_epoch >= plan.patience:
            self.stop_reason = "patience"
            self.stop_text = f"The validation loss did not fall for {plan.patience} epochs."
        elif epoch == plan.epochs:
            self.stop_reason = "epochs"
            self.stop_text = f"The most epochs allowed, {plan.epochs}, were trained."
