"""Memory of a training step of the baselines that learn from voxels, counted without a GPU: JSON.

    python -m benchmarks.baselines_memory --size 160,160,64

A step of batch 1 in float32 (bfloat16 keeps about half) of the bundle's own networks and update, on torch's device
`meta`, which has shapes and no numbers. Counted are the tensors that wait for the backward pass (the most of them at
once), and the weights with gradients, Adam's moments and an average. What a layer takes while it computes comes on top.
HA-GAN also for twice the depth, and with the whole volume in place of its slab.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import fire
import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.machine import describe
from lldm3d.bundle import bundle_path
from lldm3d.diffusion.batches import ReconstructionBatch
from lldm3d.methods.ha_gan import AmortizedUpdate

COPIES = 5  # of each weight: itself, gradient, two moments, average
META = torch.device("meta")


class Kept:
    """Counts the tensors that wait for a backward pass; `most` is the most bytes before any of them."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.most = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage  # held, so that no other takes its place
        self.most = max(self.most, sum(item.nbytes() for item in self.storages.values()))
        return tensor

    def release(self, *_: object) -> None:
        self.storages.clear()


@contextmanager
def counted(optimizers: list[torch.optim.Optimizer]) -> Iterator[Kept]:
    """Count within the block; each step of an optimizer ends what waits."""
    kept = Kept()
    for optimizer in optimizers:
        optimizer.register_step_post_hook(kept.release)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        yield kept


def parsed(name: str, size: list[int]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle_path(f"baselines/{name}") / "configs/train.yaml"))
    parser.update({"roi_size": size, "device": META})
    return parser


def adam(*networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([weight for network in networks for weight in network.parameters()])


def ddpm(size: list[int]) -> dict:
    network = parsed("ddpm", size).get_parsed_content("network_def").to(META)
    optimizer = adam(network)
    with counted([optimizer]) as kept:
        network(torch.rand(1, 1, *size, device=META), torch.zeros(1, device=META)).square().mean().backward()
        optimizer.step()
    return described(kept, network)


def ha_gan(size: list[int], **ids: object) -> dict:
    parser = parsed("ha_gan", size)
    parser.update(ids)
    names = ("network_def", "encoder_def", "high_def", "low_def")
    generator, encoder, high, low = (parser.get_parsed_content(name).to(META) for name in names)
    optimizers = {"discriminators": adam(high, low), "encoder": adam(encoder)}
    depth, axis = (parser.get_parsed_content(name) for name in ("depth", "axis"))
    update = AmortizedUpdate(encoder, {"high": high, "low": low}, optimizers, depth, axis=axis)
    engine = SimpleNamespace(
        network=generator,
        optimizer=adam(generator),
        prepare_batch=ReconstructionBatch("image"),
        non_blocking=False,
        state=SimpleNamespace(device=META),
    )
    with counted([*optimizers.values(), engine.optimizer]) as kept:
        update.update(engine, {"image": torch.rand(1, 1, *size, device=META)})
    return described(kept, generator, encoder, high, low)


def described(kept: Kept, *networks: nn.Module) -> dict:
    parameters = sum(weight.numel() for network in networks for weight in network.parameters())
    weights = 4 * COPIES * parameters
    figures = {"kept": kept.most, "weights": weights, "both": kept.most + weights}
    return {"parameters": parameters, **{f"{name}_gb": round(value / 1e9, 2) for name, value in figures.items()}}


def main(size: tuple[int, ...] = (160, 160, 64)) -> None:
    """Count for volumes of `size` voxels."""
    size = list(size)
    content = {"size": size, "ddpm": ddpm(size), "ha_gan": ha_gan(size)}
    content["ha_gan, twice as deep"] = ha_gan([2 * size[0], *size[1:]])
    content["ha_gan, whole instead of slab"] = ha_gan(size, slab=max(size))
    print(json.dumps({"machine": describe(), **content}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
