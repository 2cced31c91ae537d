import pytest
import torch
from ignite.engine import Engine

from lldm3d.errors import UserError
from lldm3d.training.handlers import History


def run(losses: list[float], epoch_length: int) -> dict:
    """The curves that a training with these losses leaves."""
    history, left = History(), iter(losses)
    trainer = Engine(lambda *_: {"loss": torch.tensor(next(left))})
    history.attach(trainer)
    trainer.run(range(epoch_length), max_epochs=len(losses) // epoch_length)
    return history.state_dict()


def test_the_loss_of_an_epoch_is_the_mean_of_its_iterations():
    curves = run([1.0, 2.0, 4.0, 6.0], 2)
    assert curves["epoch"] == [1, 2] and curves["loss"] == [1.5, 5.0]


def test_the_seconds_of_a_resumed_training_go_on():
    history = History()
    history.load_state_dict({"epoch": [1], "loss": [1.0], "seconds": [100.0]})
    trainer = Engine(lambda *_: {"loss": torch.tensor(1.0)})
    history.attach(trainer)
    trainer.run([0, 0], max_epochs=2)
    first, second, third = history.curves["seconds"]
    assert 100.0 == first < second < third < 160


@pytest.mark.parametrize("length, last", [(30, 20), (16, 16)], ids=["in an epoch", "at its end"])
def test_a_loss_that_is_no_number_ends_the_training_soon(length, last):
    with pytest.raises(UserError, match=f"loss became nan by iteration {last}; lower learning_rate"):
        run([1.0] * 12 + [float("nan")] * 18, length)
