import torch

from lldm3d.training.state import MovingAverage


def train(network, average, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def build(momentum=0.1, warmup_steps=4):
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    return network, MovingAverage(network, optimizer, momentum, warmup_steps), optimizer


def test_the_first_step_is_copied_and_later_ones_weigh_less_and_less():
    network, average, optimizer = build()
    train(network, average, optimizer, 1)
    assert torch.equal(average.model.bias, network.bias)
    shares = []
    for _ in range(5):
        before = average.model.bias.item()
        train(network, average, optimizer, 1)
        shares.append((average.model.bias.item() - before) / (network.bias.item() - before))
    torch.testing.assert_close(torch.tensor(shares), torch.tensor([0.175, 0.15, 0.125, 0.1, 0.1]))


def test_a_resumed_average_goes_on_with_its_warm_up():
    network, average, optimizer = build()
    train(network, average, optimizer, 2)
    weights, state = network.state_dict(), average.state_dict()
    other, resumed, its_optimizer = build()
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(network, average, optimizer, 2)
    train(other, resumed, its_optimizer, 2)
    assert torch.equal(average.model.weight, resumed.model.weight)


def test_the_average_is_not_trained():
    _, average, _ = build()
    assert not any(weight.requires_grad for weight in average.model.parameters())
