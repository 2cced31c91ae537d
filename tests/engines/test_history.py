import pytest
import torch
from ignite.engine import Engine

from lldm3d.engines import History
from lldm3d.errors import UserError


def run(losses: list[float], epoch_length: int) -> dict:
    """The curves that a training with these losses leaves."""
    history, left = History(), iter(losses)
    trainer = Engine(lambda *_: {"loss": torch.tensor(next(left))})
    history.attach(trainer)
    trainer.run(range(epoch_length), max_epochs=len(losses) // epoch_length)
    return history.state_dict()


def test_the_loss_of_an_epoch_is_the_mean_of_its_iterations():
    assert run([1.0, 2.0, 4.0, 6.0], 2) == {"epoch": [1, 2], "loss": [1.5, 5.0]}


@pytest.mark.parametrize("length, last", [(30, 20), (16, 16)], ids=["in an epoch", "at its end"])
def test_a_loss_that_is_no_number_ends_the_training_soon(length, last):
    with pytest.raises(UserError, match=f"loss became nan by iteration {last}; lower learning_rate"):
        run([1.0] * 12 + [float("nan")] * 18, length)
