"""Fitting a generation into memory, by estimates that need no computation."""

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lldm3d.errors import UserError
from lldm3d.pairs.cases import CaseDataset
from lldm3d.pairs.sampling import Generation, LatentSampler

GB = 1e9
# What convolutions take beside their tensors, and libraries once: on a CPU this comes out 7 to 42 % above the measured
# peak (docs/reference/sampling.md)
WORKSPACE, ONCE = 1.4, 0.1 * GB


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on; `peak` is the most that lived at once.

    torch's `MemTracker` cannot follow a module that is called several times, as decoding in slabs does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None) -> Any:
        self.known.update(storages(arguments))  # what comes from outside, such as weights, is not counted
        results = function(*arguments, **(keywords or {}))
        for storage in storages(results) - set(self.known):
            self.known.add(storage)
            self.change(storage.nbytes())
            weakref.finalize(storage, self.change, -storage.nbytes())
        return results

    def change(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def storages(tree: Any) -> set[torch.UntypedStorage]:
    return {leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


def fit_memory(generation: Generation, dataset: CaseDataset, batch_size: int, memory_gb: float | None = None) -> int:
    """How many cases to draw at once, at most `batch_size`; lets the generation decode in slabs where it must.

    Smaller batches come before slabs. The first of several processes prints what it chose.

    Args:
        generation: what shall run.
        dataset: its cases; labels of the user's own count with their sizes.
        batch_size: the most that is wanted.
        memory_gb: budget in GB (1e9 bytes); default: what is free on the GPU, and no limit on a CPU.

    Raises:
        UserError: where one case in slabs takes more.
    """
    device = next(sampler.device for sampler in samplers(generation))
    if memory_gb is None and device.type == "cuda":
        memory_gb = (torch.cuda.mem_get_info(device)[0] + weights(generation)) / GB  # the weights are there already
    if memory_gb is None or not len(dataset):
        return batch_size
    size = largest(generation, dataset)
    wanted = [batch_size // 2**halvings for halvings in range(batch_size.bit_length())]
    for in_slabs, number in [(False, number) for number in wanted] + [(True, number) for number in wanted]:
        needed = estimate(generation, number, size, in_slabs) / GB
        if needed <= memory_gb:
            generation.in_slabs = in_slabs
            decoding = "in slabs" if in_slabs else "whole"
            if dataset.part[0] == 0:
                print(f"lldm3d: {number} cases at once, decoded {decoding}: about {needed:.2f} of {memory_gb:.2f} GB")
            return number
    least = estimate(generation, 1, size, True) / GB
    raise UserError(
        f"one case of {list(size)} voxels takes about {least:.2f} GB; memory_gb is {memory_gb:.2f}: raise it"
    )


def samplers(generation: Generation) -> list[LatentSampler]:
    return [sampler for sampler in (generation.label, generation.image) if sampler is not None]


def largest(generation: Generation, dataset: CaseDataset) -> tuple[int, ...]:
    """Voxels of the largest case."""
    given = [tuple(item["label"].shape[1:]) for item in dataset.data if "label" in item]
    sampler = samplers(generation)[0]
    drawn = tuple(size * sampler.codec.stride for size in sampler.latent_shape[1:])
    return max(given, key=lambda size: torch.Size(size).numel()) if given else drawn


def estimate(generation: Generation, number: int, size: tuple[int, ...], in_slabs: bool) -> int:
    """Bytes that `number` cases of `size` voxels take, weights included: without computing them."""
    made, told = [], {sampler: sampler.draw_sizes(list(range(number))) for sampler in samplers(generation)}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        for sampler in samplers(generation):
            device, stride = sampler.device, sampler.codec.stride
            condition = None
            if sampler is generation.image and generation.condition == "label":
                condition = torch.empty(number, len(sampler.codec.class_names), *size, device=device)
            elif sampler is generation.image and generation.condition:
                condition = torch.empty(number, *generation.label.latent_shape, device=device)
            shape = (number, sampler.latent_shape[0], *(extent // stride for extent in size))
            noise = torch.empty(shape, device=device)
            predict = sampler.predictor(condition, told[sampler])
            latent = noise + predict(noise, torch.zeros(number, device=device))
            made += [latent, sampler.decode(latent, in_slabs)]
    return int(WORKSPACE * live.peak + ONCE) + weights(generation)


def weights(generation: Generation) -> int:
    """Bytes of all networks."""
    modules = [module for sampler in samplers(generation) for module in (sampler.codec, sampler.network)]
    parameters = {parameter for module in modules for parameter in module.parameters()}
    return sum(parameter.nbytes for parameter in parameters)
