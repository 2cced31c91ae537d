"""Drawing new labels and images that fit them."""

from lldm3d.generate.cases import CaseDataset
from lldm3d.generate.images import DiffusionDraw, ImageGeneration
from lldm3d.generate.join import join
from lldm3d.generate.memory import fit_memory
from lldm3d.generate.run import generate
from lldm3d.generate.samplers import Generation, LatentSampler
from lldm3d.generate.system import load_system
from lldm3d.generate.write import CaseWriter

__all__ = [
    "CaseDataset",
    "CaseWriter",
    "DiffusionDraw",
    "Generation",
    "ImageGeneration",
    "LatentSampler",
    "fit_memory",
    "generate",
    "join",
    "load_system",
]
