"""The methods of synthesis: each `configs/method.yaml` of a bundle is one, and nothing else has to know of it.

Variants of a method are further files `configs/method_<variant>.yaml` beside it, with names of their own.
"""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lldm3d.bundle import INFERENCE, TRAIN, bundles_dir
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import read_yaml

FILES = ("configs/method.yaml", "configs/method_*.yaml")  # of a method, and of its variants
OURS = "lldm"  # the one whose drawn labels others may take
IMAGE_CODEC = "autoencoder_image"  # the training that leaves a codec of images, `codec.pt`
# kinds of sources of labels, which `lldm3d.pairs.sources` tells apart
DRAWN, TRAINING, UNWARPED, TEST = "drawn", "training", "unwarped", "test"
RECONSTRUCTED, BOTH, REFINED, LEFT_OUT = "reconstructed", "both", "refined", "left_out"
PSEUDO_LABELLED = "pseudo_labelled"  # images that are drawn without labels
SHAPES = "lngen"  # masks that this method draws
EDITED = ("ellipsoids", "real_shapes", SHAPES)  # labels of training cases with new lesions, by who makes the masks
GIVEN = (TRAINING, UNWARPED, TEST, "folder", BOTH, REFINED, LEFT_OUT, *EDITED)  # to methods that take labels
Need = Literal["image", "label", "scan"]
Made = Literal["label", "image", "edit"]


class Training(BaseModel):
    """One step of a method: a run of a bundle, in a folder of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = ""  # the method's own, unless another is named
    configs: tuple[str, ...] = (TRAIN,)  # laid over each other
    run: str = "training"  # id of the configs that is run
    makes: Literal["label"] | None = None  # what it alone is for: left out where all labels are given
    share: float = Field(0, ge=0, le=1)  # of the method's minutes; 0: it takes what it takes
    after: tuple[str, ...] | None = None  # steps that it reads; None: the one before it
    settings: dict[str, object] = {}  # ids of the configs, where this method differs from their defaults
    repeats: dict[str, tuple[str, ...]] = {}  # step: ids that are those of the network which it trained


class Method(BaseModel):
    """What a bundle's `method.yaml` says: how a way to make pairs is trained, what it needs and what it makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # the bundle's folder, unless the file says another
    bundle: str  # whose `inference.yaml` draws, as `lldm3d.bundle.bundle_path` takes it
    title: str  # in tables and figures
    source: str
    needs: tuple[Need, ...] = Field(min_length=1)  # of each training case
    makes: tuple[Made, ...] = Field(min_length=1)
    trainings: dict[str, Training]  # in order; none of a method that edits scans and learns nothing
    inference: tuple[str, ...] = (INFERENCE,)  # configs that draw, laid over each other; none where nothing is learnt
    draw_labels: tuple[str, ...] = ()  # further ones, where labels are drawn too

    @model_validator(mode="after")
    def check_trainings(self) -> "Method":
        """The shares are one at most, a step reads none but earlier ones, and what learns nothing edits scans."""
        if not self.trainings and not (self.edits and not self.inference):
            raise ValueError("a method without trainings makes edits, and has `inference: []`")
        if sum(training.share for training in self.trainings.values()) > 1 + 1e-9:
            raise ValueError("the shares of the trainings add up to more than 1")
        for place, (name, training) in enumerate(self.trainings.items()):
            earlier = list(self.trainings)[:place]
            named = [*(training.after or ()), *training.repeats]
            if wrong := [other for other in named if other not in earlier]:
                raise ValueError(f"trainings#{name} reads {wrong}, but the trainings before it are {earlier}")
        return self

    @property
    def takes_labels(self) -> bool:
        """Whether it can draw images on labels that it is given."""
        return "label" in self.needs

    @property
    def edits(self) -> bool:
        """Whether it changes real scans, for labels with new lesions alone."""
        return "edit" in self.makes

    @property
    def draws_labels(self) -> bool:
        return "label" in self.makes

    @property
    def has_labels(self) -> bool:
        """Whether its images come with labels, its own or those that it is given."""
        return self.draws_labels or self.takes_labels

    @property
    def needs_drawn_labels(self) -> bool:
        """Whether another method must draw the labels of its source `drawn`."""
        return self.takes_labels and not self.draws_labels and not self.edits

    def inputs(self, training: str) -> tuple[str, ...]:
        """The trainings that must be done before `training`."""
        names = list(self.trainings)
        before = names[: names.index(training)]
        after = self.trainings[training].after
        return after if after is not None else tuple(before[-1:])

    def bundle_of(self, training: str) -> str:
        return self.trainings[training].bundle or self.bundle

    def parts(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Bundle and configs of each training and of the inference: the sections of a profile for this method."""
        found = {name: (self.bundle_of(name), training.configs) for name, training in self.trainings.items()}
        return {**found, **({"inference": (self.bundle, self.configs(given=False))} if self.inference else {})}

    def configs(self, given: bool) -> tuple[str, ...]:
        """The configs that draw where labels are given, or not."""
        return self.inference if given else self.inference + self.draw_labels

    def used(self, given: bool) -> list[str]:
        """The trainings whose networks draw where labels are given, or not."""
        return [name for name, training in self.trainings.items() if not (given and training.makes == "label")]

    @property
    def sources(self) -> tuple[str, ...]:
        """The kinds of label sources that it has pairs for, its default first."""
        if self.edits:
            return tuple(sorted(EDITED, key=lambda source: source != self.name))  # what it draws itself first
        taken = GIVEN if self.takes_labels else () if self.draws_labels else (PSEUDO_LABELLED,)
        return (DRAWN, *taken, *([RECONSTRUCTED] if IMAGE_CODEC in self.trainings else []))


def method_files() -> dict[str, tuple[Path, dict]]:
    """Name, and file and content, of all methods, our own first.

    Raises UserError where two files name one method.
    """
    return read_method_files(bundles_dir())


@cache  # jobs of a plan ask for it thousands of times
def read_method_files(root: Path) -> dict[str, tuple[Path, dict]]:
    """The same of the bundles below `root`, as they stand when first asked for."""
    files = [file for depth in ("*", "*/*") for name in FILES for file in root.glob(f"{depth}/{name}")]
    found = {}
    for file in sorted(files, key=lambda file: (len(file.parts), file)):
        content = read_yaml(file, "a method has a title, trainings and so on")
        name = str(content.get("name", file.parents[1].name))
        if name in found:
            raise UserError(f"{file}: the method {name!r} is that of {found[name][0]} already; give it another `name`")
        found[name] = (file, content)
    return dict(sorted(found.items(), key=lambda item: item[0] != OURS))


def method_names() -> list[str]:
    return list(method_files())


def load_method(name: str) -> Method:
    """The method `name`. Raises UserError where there is none, or with all faults of its file."""
    found = method_files()
    if name not in found:
        raise UserError(f"there is no method {name!r}: {did_you_mean(name, found)}The methods are {', '.join(found)}")
    file, content = found[name]
    bundle = file.parents[1].relative_to(bundles_dir()).as_posix()
    try:
        return Method.model_validate({**content, "name": name, "bundle": bundle})
    except ValidationError as error:
        raise UserError(f"{file}: {'; '.join(validation_faults(error))}") from None


def validation_faults(error: ValidationError) -> list[str]:
    """One message for each fault that pydantic found, with the place as `a#b` and the value."""
    faults = []
    for item in error.errors():
        place, value = "#".join(map(str, item["loc"])), item["input"]
        shown = "" if isinstance(value, dict) or item["type"] in ("missing", "extra_forbidden") else f", got {value!r}"
        faults.append(f"{place}: {item['msg'].removeprefix('Value error, ')}{shown}".lstrip(": "))
    return faults
