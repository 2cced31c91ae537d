"""A training that is killed and goes on ends with the weights of one that never was."""

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import RandGaussianNoised

from lldm3d.errors import UserError
from lldm3d.files import read_json
from lldm3d.training.state import EpochSampler, TrainingState


class Killed(Exception):
    pass


def build(path, epochs, width=4):
    torch.manual_seed(7)
    data = [
        {"image": torch.randn(1, 4, generator=torch.Generator().manual_seed(i)), "label": torch.ones(1, 1)}
        for i in range(6)
    ]
    dataset = CacheDataset(data, RandGaussianNoised("image", prob=1.0), progress=False)
    sampler = EpochSampler(6, 8, seed=1)
    network = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    state = TrainingState(path, {"network": network, "optimizer": optimizer}, sampler, seed=5)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler)
    trainer = SupervisedTrainer(
        torch.device("cpu"), epochs, loader, network, optimizer, torch.nn.MSELoss(), epoch_length=4,
        train_handlers=[state], decollate=False,
    )  # fmt: skip
    return trainer, network


def test_resumed_weights_equal_uninterrupted_ones(tmp_path):
    trainer, whole = build(tmp_path / "whole.pt", 5)
    trainer.run()
    trainer, _ = build(tmp_path / "state.pt", 5)

    def kill(engine):
        if engine.state.iteration == 11:  # in the middle of the third epoch
            raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
    with pytest.raises(Killed):
        trainer.run()
    trainer, resumed = build(tmp_path / "state.pt", 5)
    trainer.run()
    assert trainer.state.iteration == 20
    told = read_json(tmp_path / "progress.json")
    assert (told["epoch"], told["epochs"], told["seconds_left"]) == (5, 5, 0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_training_is_not_trained_again(tmp_path):
    trainer, network = build(tmp_path / "state.pt", 2)
    trainer.run()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer, network = build(tmp_path / "state.pt", 2)
    trainer.run()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_weights_that_are_no_numbers_end_the_training_and_not_its_last_state(tmp_path):
    trainer, network = build(tmp_path / "state.pt", 5)

    def spoil(engine):
        if engine.state.iteration == 10:
            network[0].weight.data[0, 0] = float("nan")

    trainer.add_event_handler(Events.ITERATION_COMPLETED, spoil)
    with pytest.raises(FloatingPointError, match="epoch 3 ends with weights that are no numbers.*autocast: false"):
        trainer.run()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["epoch"] == 2


def test_a_state_of_another_configuration_is_refused(tmp_path):
    build(tmp_path / "state.pt", 1)[0].run()
    with pytest.raises(UserError, match=r"(?s)state\.pt.*another configuration.*delete it"):
        build(tmp_path / "state.pt", 1, width=8)[0].run()
