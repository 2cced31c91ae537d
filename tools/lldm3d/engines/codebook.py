"""Keeping the codebook of a VQ-VAE in use."""

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.networks.nets import VQVAE
from monai.utils import CommonKeys

from lldm3d.engines.history import History

DEAD = 0.01  # moving count of a batch's voxels below which a code counts as unused


class Codebook:
    """Handler that logs at the end of each epoch how many codes are in use, and puts dead ones where encodings lie.

    The revival is that of Dhariwal et al. 2020 (Jukebox), as Khader et al. 2022 use it: a code that no voxel comes near
    becomes the encoding of a random voxel of the last batch, of several processes of the first one's. MONAI's
    `EMAQuantizer` leaves dead codes where they are.

    Args:
        network: whose quantiser has the codes; not wrapped by DistributedDataParallel.
        history: gets the curves `codebook_usage`, share of codes, and `perplexity`, of the last batch.
        until: last epoch in which codes are revived; those put in later would not be learnt any more.
    """

    def __init__(self, network: VQVAE, history: History, until: int) -> None:
        self.network, self.history, self.until = network, history, until

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tend)

    @torch.no_grad()
    def tend(self, engine: Engine) -> None:
        quantizer = self.network.quantizer.quantizer
        dead = quantizer.ema_cluster_size < DEAD
        curves = {"codebook_usage": 1 - dead.float().mean(), "perplexity": self.network.quantizer.perplexity}
        for name, value in curves.items():
            self.history.curves.setdefault(name, []).append(float(value))
        if engine.state.epoch <= self.until and dead.any():
            encoded = self.network.encode(engine.state.output[CommonKeys.IMAGE])
            revive(quantizer, dead, encoded.float().movedim(1, -1).flatten(0, -2))


def codes_in_use(network: VQVAE) -> torch.Tensor:
    """The codes [n, D] that voxels came near of late, of a trained network.

    MONAI's moving average divides a code that none ever came near by almost 0: until it is revived it lies 100 000
    times as far out as the others, and would set the scale of them all.
    """
    quantizer = network.quantizer.quantizer
    return quantizer.embedding.weight.detach()[quantizer.ema_cluster_size >= DEAD]


def revive(quantizer, dead: torch.Tensor, encoded: torch.Tensor) -> None:
    """Give dead codes the places of random encodings [N, D], with the count of one voxel."""
    chosen = encoded[torch.randint(len(encoded), (int(dead.sum()),)).to(encoded.device)]
    chosen = idist.broadcast(chosen)  # each process has seen another batch; MONAI keeps the rest of their codes alike
    quantizer.embedding.weight.data[dead] = chosen
    quantizer.ema_w[dead] = chosen
    quantizer.ema_cluster_size[dead] = 1.0
