"""The parts of the GANs that draw images for labels, each beside what its paper says by hand."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from monai.networks.blocks import SPADE
from monai.networks.nets import PatchDiscriminator

from lldm3d.data.labels import one_hot
from lldm3d.diffusion.noise import noise_like
from lldm3d.errors import UserError
from lldm3d.methods.conditional_gan import (
    ConditionalUpdate,
    LabelToImageBatch,
    PatchJudge,
    PyramidDiscriminator,
    halvings,
    hinge_loss,
    vanilla_loss,
)
from lldm3d.methods.oasis import SegmentationJudge, SegmentingDiscriminator, class_weights, label_mix, real_loss
from lldm3d.methods.pix2pix import UNetGenerator
from lldm3d.methods.spade import SpadeGenerator, spade_norm
from lldm3d.pairs.label_to_image import DenoisingDraw, GeneratorDraw, LabelledGeneration
from lldm3d.training.state import MovingAverage

SIZES = ([16, 24], [16, 16, 20])
GENERATORS = {
    "pix2pix": lambda size: UNetGenerator(3, size, channels=4),
    "spade": lambda size: SpadeGenerator(3, size, channels=4, hidden_channels=4),
    "oasis": lambda size: SpadeGenerator(3, size, channels=4, hidden_channels=4, noise_channels=4),
}


def labels(size, cases=2, classes=3):
    """Label maps [B, 1, ...]: boxes of one class in each other."""
    label = torch.zeros(cases, 1, *size, dtype=torch.uint8)
    for case in range(cases):
        for value in range(1, classes):
            label[(case, 0, *(slice(2 * value, length - 2 * value - case) for length in size))] = value
    return label


def squares(side):
    label = torch.zeros(1, 2, 128, 128)
    low = 64 - side // 2
    label[:, 1, low : low + side, low : low + side] = 1
    label[:, 0] = 1 - label[:, 1]
    return label


def gamma(layer, side):
    """Of the first channel, in the middle of a square."""
    return layer.mlp_gamma(layer.mlp_shared(squares(side)))[0, 0, 64, 64].item()


def test_gamma_of_a_class_does_not_follow_from_the_size_of_the_object():
    """As that of MONAI's class does, which is why it is repaired."""
    torch.manual_seed(0)
    layer, stock = spade_norm(2, 4, 2, 8), SPADE(2, 4, hidden_channels=8)
    values = [gamma(layer, side) for side in (8, 32, 64)]
    assert values[0] == pytest.approx(values[1], abs=1e-5) == pytest.approx(values[2], abs=1e-5)
    faulty = [abs(gamma(stock, side)) for side in (8, 64)]
    assert max(faulty) > 1.5 * min(faulty), "MONAI has mended its SPADE: use it as it stands"


@pytest.mark.parametrize("norm", ["INSTANCE", ("GROUP", {"num_groups": 2})])
def test_the_norm_is_scaled_and_shifted_by_the_label_and_has_no_weights_of_its_own(norm):
    layer, x = spade_norm(2, 4, 2, 8, norm), torch.randn(1, 4, 128, 128)
    label = torch.cat([torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)], 1)  # of half the size
    shared = layer.mlp_shared(torch.nn.functional.interpolate(label, 128))
    expected = layer.param_free_norm(x) * (1 + layer.mlp_gamma(shared)) + layer.mlp_beta(shared)
    torch.testing.assert_close(layer(x, label), expected)
    assert not list(layer.param_free_norm.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("build", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_draws_what_its_label_and_noise_say(build, size):
    torch.manual_seed(0)
    network, hot = build(size), one_hot(labels(size), 3)
    noise = [torch.stack([part] * 2) for part in network.noise(size, torch.Generator().manual_seed(1))]
    image = network(hot, *noise)
    assert image.shape == (2, 1, *size) and image.abs().max() <= 1
    assert (image[0] - network(hot.flip(0), *noise)[0]).abs().max() > 1e-6  # before any training
    other = [torch.stack([part] * 2) for part in network.noise(size, torch.Generator().manual_seed(2))]
    if noise:
        assert (image - network(hot, *other)).abs().max() > 1e-6
    larger = [2 * step for step in network.multiple]
    hot = one_hot(labels(larger, classes=2), 3)  # networks take any multiple
    parts = [part[None].expand(2, *part.shape) for part in network.noise(larger)]
    assert network(hot, *parts).shape == (2, 1, *larger)


def test_axes_are_halved_while_they_can_be_and_sizes_that_cannot_are_refused():
    assert halvings([16, 24], 8) == [(2, 2), (2, 2)]
    assert halvings([32, 8, 20], 8) == [(2, 2, 2), (2, 1, 2), (2, 1, 1)]
    with pytest.raises(UserError, match=r"size \[16, 1\]: needs at least 8 voxels along each axis"):
        halvings([16, 1], 8)
    with pytest.raises(UserError, match="no axis is even"):
        halvings([9, 15], 8)


def test_the_hinge_loss_is_that_of_the_paper():
    real, at = torch.tensor([5.0, -5.0]), torch.tensor
    assert hinge_loss(real, True, True) == at([0.0, 6.0]).mean()
    assert hinge_loss(real, False, True) == at([6.0, 0.0]).mean()
    assert hinge_loss(at([5.0]), True, False) == -5 and hinge_loss(at([-5.0]), True, False) == 5


def engine_of(network, hot, image):
    """What an update is called with, for a batch that is always the same."""
    optimizer = torch.optim.Adam(network.parameters(), 0.002, betas=(0.5, 0.999))
    batch = {"image": (image + 1) / 2, "label": hot.argmax(1, keepdim=True), "index": torch.arange(len(hot))}
    state = SimpleNamespace(device=torch.device("cpu"))
    prepare = LabelToImageBatch(network, 3)
    found = SimpleNamespace(network=network, optimizer=optimizer, state=state, prepare_batch=prepare)
    found.inferer, found.non_blocking = lambda label, net, *noise: net(label, *noise), False
    return found, batch


def pair(size):
    hot = one_hot(labels(size), 3)
    return hot, (hot * torch.tensor([-0.8, 0.0, 0.8]).view(1, 3, *[1] * len(size))).sum(1, keepdim=True)


def test_on_a_fixed_batch_the_generator_comes_near_and_the_discriminator_tells_real_from_drawn():
    torch.manual_seed(0)
    (hot, image), network = pair([16, 24]), GENERATORS["pix2pix"]([16, 24])
    discriminator = PatchDiscriminator(2, 8, 4, num_layers_d=2, norm="INSTANCE")
    engine, batch = engine_of(network, hot, image)
    judged = torch.optim.Adam(discriminator.parameters(), 0.002, betas=(0.5, 0.999))
    update = ConditionalUpdate(discriminator, judged, PatchJudge(vanilla_loss, discriminator_weight=0.5), 100.0)
    distances = [update(engine, batch)["l1"].item() for _ in range(35)]
    assert sum(distances[-5:]) < 0.6 * sum(distances[:5])
    still = PatchJudge(vanilla_loss)
    drawn = torch.zeros_like(image)  # of a generator that does not follow
    for _ in range(20):
        loss = still.discriminator_loss(discriminator, hot, image, drawn)
        judged.zero_grad()
        loss.backward()
        judged.step()
    logits = still.scales(discriminator, hot, image, drawn)[0][-1]
    assert logits[0].mean() > logits[1].mean()


@pytest.mark.parametrize("size", ([16, 24], [16, 16, 16]))
def test_the_pyramid_sees_the_image_and_its_half_and_features_of_the_same_image_match(size):
    torch.manual_seed(0)
    hot, image = pair(size)
    discriminator = PyramidDiscriminator(len(size), 4, channels=4, num_layers=2)
    scales = discriminator(torch.cat([hot, image], 1))
    assert len(scales) == 2 and scales[1][0].shape[2] < scales[0][0].shape[2]
    matched = PatchJudge(hinge_loss, matching_weight=10.0)
    plain = PatchJudge(hinge_loss)
    same = [judge.generator_loss(discriminator.eval(), hot, image, image) for judge in (matched, plain)]
    torch.testing.assert_close(*same)
    other = [judge.generator_loss(discriminator, hot, image, -image) for judge in (matched, plain)]
    assert other[0] > other[1] + 0.01
    discriminator.train()
    for _ in range(20):  # of the power iteration
        discriminator(torch.cat([hot, image], 1))
    largest = [torch.linalg.matrix_norm(layer.conv.weight.flatten(1), 2) for layer in discriminator.scales[0]]
    torch.testing.assert_close(torch.stack(largest), torch.ones(len(largest)), atol=0.05, rtol=0)


def test_classes_of_a_balanced_batch_weigh_one_and_rare_ones_no_more_than_a_hundred():
    label = torch.zeros(1, 1, 8, 9, dtype=torch.uint8)
    label[..., 3:6], label[..., 6:] = 1, 2
    torch.testing.assert_close(class_weights(one_hot(label, 4)), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    rare = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    rare[..., 0, 0] = 1
    assert class_weights(one_hot(rare, 2))[1] == 100


def test_drawn_is_never_the_class_of_a_real_voxel():
    hot = one_hot(labels([8, 8]), 3)
    logits = torch.zeros(2, 4, 8, 8)
    logits[:, 0] = 50  # all drawn
    right = torch.cat([torch.zeros(2, 1, 8, 8), 50 * hot], 1)
    assert real_loss(logits, hot) > 20 and real_loss(right, hot) < 1e-6
    shifted = 50 * torch.cat([hot, torch.zeros(2, 1, 8, 8)], 1)  # classes without the one for "drawn"
    assert real_loss(shifted, hot) > 20


def test_label_mix_follows_the_borders_of_the_classes_and_costs_nothing_between_equal_images():
    torch.manual_seed(0)
    hot, image = pair([16, 24])
    mask = label_mix(hot)
    for case in range(2):
        for value in range(3):
            assert len(mask[case, 0][hot[case, value] > 0].unique()) == 1
    discriminator = SegmentingDiscriminator(3, [16, 24], channels=4).eval()
    losses = [SegmentationJudge(weight).discriminator_loss(discriminator, hot, image, image) for weight in (0, 10)]
    torch.testing.assert_close(*losses)
    losses = [SegmentationJudge(weight).discriminator_loss(discriminator, hot, image, -image) for weight in (0, 10)]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("size", SIZES)
def test_the_segmenting_discriminator_answers_for_each_voxel(size):
    hot, image = pair(size)
    assert SegmentingDiscriminator(3, size, channels=4)(image).shape == (2, 4, *size)


def test_an_average_of_spectrally_normalised_weights_has_their_singular_vectors():
    """With those of the start its images would be others."""
    torch.manual_seed(0)
    network = GENERATORS["spade"]([16, 16])
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    average, hot = MovingAverage(network, optimizer, 0.5, 1), one_hot(labels([16, 16]), 3)
    before = deepcopy(average.model)
    for _ in range(3):
        optimizer.zero_grad()
        network(hot).mean().backward()
        optimizer.step()
    pairs = zip(average.model.buffers(), network.buffers(), before.buffers(), strict=True)
    assert all(torch.equal(ours, theirs) and not torch.equal(ours, old) for ours, theirs, old in pairs)


def generation(network, noise="volume", slices=3):
    return LabelledGeneration(GeneratorDraw(network, "cpu", False), 3, 0, "cpu", 2, slices, noise)


def drawn(network, label, **options):
    batch = {"label": label, "index": torch.arange(len(label)), "name": ["a", "b"], "affine": torch.eye(4)}
    return generation(network, **options)(None, batch)["image"]


def test_slices_of_a_volume_share_their_noise_or_have_each_its_own():
    """With one label in all slices those of shared noise are alike, whatever the number drawn at once."""
    torch.manual_seed(0)
    network = GENERATORS["pix2pix"]([16, 24]).eval()
    label = labels([16, 24])[..., None].expand(-1, -1, -1, -1, 5)
    image = drawn(network, label)
    assert image.shape == (2, 1, 16, 24, 5) and 0 <= image.min() <= image.max() <= 1
    torch.testing.assert_close(image[..., :1].expand_as(image), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn(network, label, slices=5), image, atol=1e-5, rtol=0)
    assert (image[0] - drawn(network, label.flip(0))[1]).abs().max() > 1e-4  # of another case
    assert (drawn(network, label, noise="slice").diff(dim=-1).abs().amax((0, 1, 2, 3)) > 1e-4).all()


def test_smooth_noise_is_much_alike_in_neighbouring_slices_and_not_in_distant_ones():
    """What is drawn here is the noise of two steps."""
    scheduler = SimpleNamespace(sample=lambda network, noise, generators: (noise + noise_like(noise, generators)) / 10)
    draw, label = DenoisingDraw(None, scheduler, "cpu"), labels([64, 64])[..., None].expand(-1, -1, -1, -1, 20)
    batch = {"label": label, "index": torch.arange(len(label)), "name": ["a", "b"], "affine": torch.eye(4)}
    images = [LabelledGeneration(draw, 3, 0, "cpu", 2, n, "smooth")(None, batch)["image"] for n in (3, 20)]
    torch.testing.assert_close(images[0], images[1])
    slices = (images[0][0, 0] * 2 - 1).permute(2, 0, 1).flatten(1)
    correlation = torch.corrcoef(slices)
    assert correlation.diagonal(1).mean() == pytest.approx(0.86, abs=0.02)
    assert abs(correlation.diagonal(7)).max() < 0.1 and slices.std() == pytest.approx(0.02**0.5, rel=0.05)
    with pytest.raises(UserError, match="--noise smooth is of diffusion on slices"):
        generation(GENERATORS["pix2pix"]([16, 24]), noise="smooth")
