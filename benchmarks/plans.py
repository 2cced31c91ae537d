"""3D-LLDM's trainings as a profile sets them, for benchmarks that need no run."""

from collections.abc import Sequence

from monai.bundle import ConfigParser

from lldm3d.data.dataset import Schema
from lldm3d.methods.registry import OURS
from lldm3d.pairs.sources import DRAWN
from lldm3d.phantom.case import CLASS_NAMES
from lldm3d.pipeline.cost import training_config
from lldm3d.pipeline.plan import Plan, method_folder
from lldm3d.pipeline.profile import load_profile

FOLDER = method_folder(OURS, 0)  # of the trainings in a work directory
TRAININGS = ("autoencoder_image", "autoencoder_label", "label_ldm", "image_ldm", "controlnet")  # of networks


def plan_of(profile: str) -> Plan:
    """3D-LLDM alone on simulated livers; its settings may be changed."""
    return Plan(None, (OURS,), (DRAWN,), load_profile(profile))


def livers(size: Sequence[int]) -> Schema:
    """Simulated livers of `size` voxels."""
    return Schema("livers", CLASS_NAMES, tuple(size), (1.0,) * 3)


def config(plan: Plan, training: str, schema: Schema, **ids: object) -> ConfigParser:
    """The training's config with the profile's settings, those it repeats of earlier trainings, and further `ids`."""
    parser = training_config(plan, plan.loaded[OURS], training, schema)
    parser.update(ids)
    return parser
