"""How a head is built and trained, and the space of heads to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# Decoupled weight decay of Adam (Loshchilov & Hutter 2019, arXiv:1711.05101), for each step.
WEIGHT_DECAY = 1e-2
CLASS_WEIGHTS = ("none", "balanced", "logit_adjusted")


@dataclass(frozen=True)
class HeadPlan:
    """How a head is built and trained.

    Args:
        units: Units of each hidden layer; empty for none.
        dropout: Share of the inputs of the last layer dropped in training, 0 to 0.95.
        epochs: Most epochs.
        batch_size: Images per step.
        learning_rate: Adam's.
        stop_at_accuracy: Stop once this accuracy is reached, 0 to 1; None for never.
        stop_on: "val" or "train": whose accuracy that is.
        patience: Epochs without a lower validation loss before training stops.
        seed: Seed of the weights, of dropout and of the order of images.
        weight_decay: Adam's, decoupled, for each step.
        class_weight: "none"; "balanced": each class weighs the same in the loss;
            "logit_adjusted": the logarithm of each class's share of train is taken from its logit
            once trained (Menon et al. 2021, arXiv:2007.07314, section 4.1).
        within: The first feature column it sees and the one behind the last; None for all.
        is_augmented: Whether it is also fitted on the views of its images.
    """

    units: tuple[int, ...]
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    stop_at_accuracy: float | None
    stop_on: str
    patience: int
    seed: int
    weight_decay: float = WEIGHT_DECAY
    class_weight: str = "none"
    within: tuple[int, int] | None = None
    is_augmented: bool = False

    @property
    def form(self) -> HeadForm:
        """What a comparison varies."""
        return HeadForm(self.units, self.dropout, self.weight_decay)

    @property
    def layers_text(self) -> str:
        """The layers in Keras's words."""
        hidden = [f"Dense({units}, relu)" for units in self.units]
        dropout = [f"Dropout({self.dropout:g})"] if self.dropout else []
        return ", ".join([*hidden, *dropout, "Dense(softmax)"])


@dataclass(frozen=True)
class HeadForm:
    """The form of a head.

    Args:
        units: Units of each hidden layer; empty for a linear head.
        dropout: Before the last layer.
        weight_decay: Adam's.
    """

    units: tuple[int, ...]
    dropout: float
    weight_decay: float

    @property
    def text(self) -> str:
        """In a few words."""
        hidden = "linear" if not self.units else " and ".join(map(str, self.units)) + " units"
        return f"{hidden}, dropout {self.dropout:g}, weight decay {self.weight_decay:g}"


@dataclass(frozen=True)
class HeadSpace:
    """What may be chosen; where there is one of a kind, it is taken.

    Args:
        base: How heads are trained, but for what is chosen.
        features: Name of each depth set, and its columns, see `HeadPlan.within`.
        heads: The first is the one that depth sets are compared with.
        class_weights: The first is what the others must surely beat.
        ensembles: Whether the mean of the fold heads may take the head's place.
        folds: Folds of the comparison, where each class has groups enough.
        search: How many further heads are drawn and tried.
    """

    base: HeadPlan
    features: Mapping[str, tuple[int, int] | None]
    heads: tuple[HeadForm, ...]
    class_weights: tuple[str, ...] = ("none",)
    ensembles: tuple[bool, ...] = (False,)
    folds: int = 5
    search: int = 0

    @classmethod
    def only(cls, plan: HeadPlan) -> HeadSpace:
        """The space of one plan: nothing is to be chosen."""
        form = HeadForm(plan.units, plan.dropout, plan.weight_decay)
        return cls(plan, {"all": plan.within}, (form,), (plan.class_weight,))

    @property
    def size(self) -> int:
        """How many candidates are trained: depth sets, then heads, then class weights."""
        if not self.is_open:
            return 1
        listed = len(self.features) + len(self.heads) - 1 + len(self.class_weights) - 1
        return listed + self.search

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose."""
        kinds = (self.features, self.heads, self.class_weights, self.ensembles)
        return any(len(kind) > 1 for kind in kinds) or any(self.ensembles) or self.search > 0

    def plan(
        self, features: str, form: HeadForm, class_weight: str, is_augmented: bool = False
    ) -> HeadPlan:
        """The plan of one candidate."""
        return replace(
            self.base,
            within=self.features[features],
            units=form.units,
            dropout=form.dropout,
            weight_decay=form.weight_decay,
            class_weight=class_weight,
            is_augmented=is_augmented,
        )

    @property
    def first(self) -> HeadPlan:
        """What is taken where nothing can be compared."""
        return self.plan(next(iter(self.features)), self.heads[0], self.class_weights[0])
