"""What two processes of a training make together is what one makes of both of their batches."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from monai.networks.nets import VQVAE
from torch import nn

from lldm3d.codec.training import revive
from lldm3d.diffusion.batches import ReconstructionBatch
from lldm3d.methods import ha_gan
from lldm3d.methods.ha_gan import AmortizedUpdate, Discriminator, Encoder, Generator, average_gradients

FORK = multiprocessing.get_context("fork")
SIZE, WIDTHS = [16, 16, 16], {"latent_size": 4, "channels": 8, "groups": 2}


def alone_and_two(work, folder: Path) -> list[dict]:
    """What `work(rank, number of processes)` gives in one process, and in the first and the second of two."""
    for world in (1, 2):
        processes = [FORK.Process(target=_process, args=(work, folder, rank, world)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    return [torch.load(folder / name, weights_only=True) for name in ("0_of_1", "0_of_2", "1_of_2")]


def _process(work, folder: Path, rank: int, world: int) -> None:
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save(work(rank, world), folder / f"{rank}_of_{world}")


def step_of_ha_gan(rank: int, world: int) -> dict:
    """The weights after two steps of two cases in all, with latents that follow from the case."""
    torch.manual_seed(0)
    images, latents = torch.rand(2, 1, *SIZE), torch.randn(2, WIDTHS["latent_size"])
    ha_gan.torch = SimpleNamespace(**{**vars(torch), "randn": lambda *_, **__: latents[rank::world]})
    generator, encoder = Generator(SIZE, **WIDTHS), Encoder(SIZE, **WIDTHS)
    judges = nn.ModuleDict({"high": Discriminator([4, 8]), "low": Discriminator([4])})
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in (generator, encoder, judges)]
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(average_gradients)
    of_others = {"encoder": optimizers[1], "discriminators": optimizers[2]}
    update = AmortizedUpdate(encoder, judges, of_others, depth=SIZE[0])
    state = SimpleNamespace(device=torch.device("cpu"))
    batch = ReconstructionBatch("image")
    engine = SimpleNamespace(
        state=state, prepare_batch=batch, non_blocking=False, network=generator, optimizer=optimizers[0]
    )
    for _ in range(2):
        update(engine, {"image": images[rank::world]})
    return nn.ModuleList([generator, encoder, judges]).state_dict()


def revived_codes(rank: int, world: int) -> dict:
    """The codes after a revival from the encodings of each process."""
    network = VQVAE(3, 1, 1, (4,), 1, (4,), ((2, 4, 1, 1),), ((2, 4, 1, 1, 0),), num_embeddings=8, embedding_dim=2)
    quantizer = network.quantizer.quantizer
    quantizer.embedding.weight.data.zero_()
    revive(quantizer, torch.ones(8, dtype=torch.bool), torch.arange(10.0).view(5, 2) + 100 * rank)
    return {"codes": quantizer.embedding.weight.data}


def test_ha_gan_takes_the_step_of_twice_the_batch(tmp_path):
    alone, first, second = alone_and_two(step_of_ha_gan, tmp_path)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def test_revived_codes_are_those_of_the_first_process_in_all(tmp_path):
    _, first, second = alone_and_two(revived_codes, tmp_path)
    assert torch.equal(first["codes"], second["codes"]) and first["codes"].max() < 100


@pytest.fixture(autouse=True)
def one_thread():
    """A forked process must not wait for threads that are not there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
