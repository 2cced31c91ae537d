import pytest
import torch

from lldm3d.errors import UserError
from lldm3d.files import save_checkpoint
from lldm3d.training.checkpoints import initialise_from


@pytest.mark.parametrize("key", ["model", "autoencoder"])
def test_the_weights_of_a_checkpoint_are_taken(key, tmp_path):
    given, network = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_checkpoint(tmp_path / "model.pt", {key: given.state_dict()})
    initialise_from(network, str(tmp_path / "model.pt"))
    assert torch.equal(network.weight, given.weight)


def test_a_file_of_weights_alone_will_do(tmp_path):
    """MONAI's CheckpointSaver writes such a one of a segmentation."""
    given, network = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_checkpoint(tmp_path / "model.pt", given.state_dict())
    initialise_from(network, str(tmp_path / "model.pt"))
    assert torch.equal(network.weight, given.weight)


@pytest.mark.parametrize(
    "content, fault",
    [
        ({"model": torch.nn.Linear(2, 4).state_dict()}, r"weight is \[4, 2\] there and \[3, 2\] here"),
        ({"model": torch.nn.Linear(2, 3, bias=False).state_dict()}, "bias is absent there"),
        ({"network": {}, "epoch": 3}, r"holds \['epoch', 'network'\]"),
    ],
    ids=["another width", "another layer", "another file"],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(content, fault, tmp_path):
    save_checkpoint(tmp_path / "model.pt", content)
    network = torch.nn.Linear(2, 3)
    before = network.weight.clone()
    with pytest.raises(UserError, match=f"init_path: .*model.pt.*{fault}.*or null"):
        initialise_from(network, str(tmp_path / "model.pt"))
    assert torch.equal(network.weight, before)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="init_path: no file .*none.pt; give the absolute path"):
        initialise_from(torch.nn.Linear(2, 3), str(tmp_path / "none.pt"))
