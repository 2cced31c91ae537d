"""Parts of an ignite engine that MONAI lacks: samplers, inferers, updates and handlers used by the bundles."""

from lldm3d.engines.adversarial import AdversarialUpdate
from lldm3d.engines.amortized import AmortizedUpdate, LatentReconstruction, average_gradients, turned_back
from lldm3d.engines.average import MovingAverage
from lldm3d.engines.batches import DiffusionBatch, EncodedBatch, ReconstructionBatch
from lldm3d.engines.codebook import Codebook, codes_in_use
from lldm3d.engines.history import History
from lldm3d.engines.inferers import AutocastInferer, ReconstructionInferer
from lldm3d.engines.meter import Meter
from lldm3d.engines.progress import ProgressBar
from lldm3d.engines.sampler import EpochSampler
from lldm3d.engines.state import TrainingState
from lldm3d.engines.whole import WholeVolumes

__all__ = [
    "AdversarialUpdate",
    "AmortizedUpdate",
    "AutocastInferer",
    "Codebook",
    "DiffusionBatch",
    "EncodedBatch",
    "EpochSampler",
    "History",
    "LatentReconstruction",
    "Meter",
    "MovingAverage",
    "ProgressBar",
    "ReconstructionBatch",
    "ReconstructionInferer",
    "TrainingState",
    "WholeVolumes",
    "average_gradients",
    "codes_in_use",
    "turned_back",
]
