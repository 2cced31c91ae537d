import re

import numpy as np
import pytest
import torch

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarDistances
from lldm3d.codec.latents import count_pieces
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.labels import LabelForm, class_sizes, join_pieces, pieces_of, size_kinds, with_voxels
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, write_json
from lldm3d.pairs.sampling import Generation, LatentSampler, seeded_generator
from lldm3d.pairs.sizes import drawn_sizes, told_pieces, told_sizes

ORGANS = torch.arange(10) + 10.0  # with a lesion in every second one, which grows with it
TABLE = [[size, (size - 5) * (place % 2)] for place, size in enumerate(ORGANS.tolist())]
CHECKPOINT = {"sizes": TABLE, "class_names": ["background", "liver", "HCC"], "spacing": [2.0, 2.0, 2.5]}  # 0.01 ml
COUNTED = CHECKPOINT | {
    "sizes": [[liver, hcc, (place // 2) * (hcc > 0)] for place, (liver, hcc) in enumerate(TABLE)],  # 0 to 4 lesions
    "size_kinds": [["liver", "volume"], ["HCC", "volume"], ["HCC", "number"]],
}


def drawn(**arguments):
    sizes = told_sizes(CHECKPOINT, **arguments)
    return torch.stack([sizes.draw(seeded_generator(0, case)) for case in range(400)])


def test_sizes_are_drawn_as_the_training_labels_have_them():
    found, wanted = drawn(), torch.tensor(TABLE)
    torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=0.15, atol=0)
    torch.testing.assert_close(found.std(0), wanted.std(0), rtol=0.1, atol=0)
    lesions = found[:, 1] > 0
    assert 0.4 < lesions.float().mean() < 0.6 and not (found < 0).any()
    assert torch.corrcoef(found[lesions].T)[0, 1] > 0.8, "large organs have large lesions"
    assert not (found[:, None] == wanted).all(-1).any(), "no patient's own"
    assert told_sizes({}) is None, "of a network that is told none"


def test_what_is_asked_for_is_told_and_all_else_fits_it():
    small, large = (drawn(volumes={"HCC": volume}) for volume in (3.0, 25.0))
    torch.testing.assert_close(small[:, 1] ** 3 * 0.01, torch.full((400,), 3.0))
    assert large[:, 0].mean() > small[:, 0].mean() + 4
    assert (drawn(volumes={"HCC": 0})[:, 1] == 0).all()


def test_so_many_lesions_are_told_and_volumes_that_go_with_them():
    sizes = [told_sizes(COUNTED, numbers={"HCC": number}) for number in (0, 4)]
    none, four = (torch.stack([found.draw(seeded_generator(0, case)) for case in range(200)]) for found in sizes)
    assert (none[:, 2] == 0).all() and (four[:, 2] == 4).all() and four[:, 1].mean() > none[:, 1].mean() + 5
    assert (none[:, 1] == 0).all() and (four[:, 1] > 0).all(), "lesions have a volume, and what is not there has none"
    one = told_sizes(COUNTED, numbers={"HCC": 1})
    assert all(one.draw(seeded_generator(0, case))[1] > 0 for case in range(200))
    both = told_sizes(COUNTED, {"liver": 20}, {"HCC": 1}).draw(seeded_generator(0))
    assert both[2] == 1 and both[0].item() == pytest.approx(2000 ** (1 / 3))


def test_labels_are_drawn_again_until_they_have_the_lesions_that_were_asked_for():
    class Sampler:
        """Draws as many lesions as a case has attempts."""

        sizes = told_sizes(COUNTED, numbers={"HCC": 2})

        def draw(self, indices, attempt):
            return torch.tensor([[index, index % 3 + attempt] for index in indices])

        def draw_forms(self, indices):
            return None

        def decode(self, latents, in_slabs, forms):
            labels = torch.ones(len(latents), 1, 20, 2, 2, dtype=torch.uint8)
            for label, (_, number) in zip(labels, latents, strict=True):
                label[0, : 2 * number : 2] = 2
            return labels

    latents, labels = Generation(Sampler()).draw_labels([3, 4, 5, 6])
    assert latents.tolist() == [[3, 2], [4, 2], [5, 2], [6, 2]], "each case by its own attempts, whatever the batch"
    assert all(pieces_of(label[0].numpy(), 2)[1] == 2 for label in labels)
    Sampler.sizes = told_sizes(COUNTED)
    assert Generation(Sampler()).draw_labels([3, 4])[0].tolist() == [[3, 0], [4, 1]], "nothing was asked for"


def test_sizes_of_a_label_are_volumes_lengths_and_numbers():
    names = ["background", "liver", "vein", "HCC"]
    label = torch.ones(1, 12, 8, 8, dtype=torch.uint8)
    label[0, 2:9, 4, 4], label[0, 0, 0, 0], label[0, 5, 7, 7] = 2, 3, 3
    kinds = size_kinds(names, ["vein"], ["HCC"])
    assert kinds == [["liver", "volume"], ["vein", "volume"], ["HCC", "volume"], ["vein", "length"], ["HCC", "number"]]
    wanted = torch.tensor([759 ** (1 / 3), 7 ** (1 / 3), 2 ** (1 / 3), 7.0, 2.0])
    torch.testing.assert_close(class_sizes(label, names, kinds), wanted)
    assert not class_sizes(torch.zeros_like(label), names, kinds).any()


@pytest.mark.parametrize(
    ("checkpoint", "numbers", "message"),
    [
        (
            CHECKPOINT,
            {"HCC": 2},
            "was told no numbers; train label_ldm anew with `sized: true`, of data with `lesions`",
        ),
        (COUNTED, {"liver": 1}, "there is no class 'liver'; those that it knows are HCC"),
        (COUNTED, {"HCC": 9}, "HCC has 0 to 4 pieces in the training labels.*got 9"),
        (COUNTED, {"HCC": 1.5}, "HCC needs a whole number, got 1.5"),
    ],
)
def test_numbers_that_no_training_label_has_are_refused(checkpoint, numbers, message):
    with pytest.raises(UserError, match=f"--numbers.*{message}"):
        told_sizes(checkpoint, numbers=numbers)


@pytest.mark.parametrize(("volume", "number"), [(5, 0), (0, 2), (0.001, 1), (0.02, 4)])  # a voxel has 0.01 ml
def test_volumes_and_numbers_that_contradict_each_other_are_refused(volume, number):
    with pytest.raises(UserError, match=f"HCC cannot have {volume} ml, .* voxels, in {number} pieces"):
        told_sizes(COUNTED, {"HCC": volume}, {"HCC": number})


@pytest.mark.parametrize(
    ("checkpoint", "volumes", "message"),
    [
        (CHECKPOINT | {"sizes": None}, {"HCC": 3}, "told no volumes; train label_ldm anew with `sized: true`"),
        (CHECKPOINT, {"spleen": 3}, "there is no class 'spleen'; those that it knows are liver, HCC"),
        (CHECKPOINT, {"HCC": 90}, "HCC has 0 to 27.4 ml in the training labels.*got 90"),
        (CHECKPOINT, {"liver": 0}, "liver has 10 to 68.6 ml in the training labels.*got 0"),
        (CHECKPOINT, {"HCC": "big"}, "HCC needs a number, got 'big'"),
        (CHECKPOINT, 5, "must be classes with ml, such as .*, got 5"),
    ],
)
def test_what_no_training_label_comes_near_to_is_refused(checkpoint, volumes, message):
    with pytest.raises(UserError, match=f"--volumes.*{message}"):
        told_sizes(checkpoint, volumes)


def test_what_was_drawn_is_told_beside_what_was_asked_for(tiny_dataset):
    label = load_nifti(load_cases(tiny_dataset, "training")[0].label)[0]
    assert label.any()
    text = drawn_sizes(tiny_dataset, {"liver": 3}, {"portal vein": 1})
    asked, low, high, pieces = re.fullmatch(
        r"lldm3d: liver (.*) ml asked, .* drawn \((.*) to (.*)\); portal vein 1 lesions asked, (.*) drawn .*", text
    ).groups()
    voxel = np.prod(load_schema(tiny_dataset).spacing) / 1000
    assert asked == "3" and float(low) <= round(float((label == 1).sum() * voxel), 3) <= float(high) * 1.01
    assert float(pieces) == 1


def broken_vessel() -> np.ndarray:
    """Scores [K, X, Y, Z] of a vessel through liver with a gap, where it is nearly drawn, and of one outside it."""
    scores = np.stack([np.full((20, 8, 8), level) for level in (-1.0, 0.5, -1.0)])
    scores[2, 3:8, 4, 4] = scores[2, 11:16, 4, 4] = 1
    scores[2, 8:11, 4, 4] = 0.4
    scores[0, :2], scores[2, 0, 0, 0] = 2, 3  # a speck in the background
    return scores


def test_a_vessel_grows_together_where_it_was_nearly_drawn_and_a_piece_that_cannot_goes():
    scores = broken_vessel()
    label = scores.argmax(0).astype(np.uint8)
    assert pieces_of(label, 2)[1] == 3
    whole = join_pieces(label, scores, 2, 1)
    assert pieces_of(whole, 2)[1] == 1 and (whole[8:11, 4, 4] == 2).all() and whole[0, 0, 0] != 2
    assert (whole != label).sum() == 4, "nothing else changes"
    assert (join_pieces(label, scores, 2, 3) == label).all() and (join_pieces(label * 0, scores, 2, 1) == 0).all()


def test_drawn_labels_have_as_many_pieces_as_training_labels_have(tmp_path):
    labels = np.zeros((3, 1, 9, 4, 4), np.uint8)
    labels[:, :, ::4, 1, 1], labels[2] = 2, 1
    (tmp_path / "training").mkdir()
    np.save(tmp_path / "training/label.npy", labels)
    write_json(tmp_path / "latents.json", {"class_names": ["background", "liver", "portal vein"]})
    counts = count_pieces(str(tmp_path), ["portal vein"])
    assert counts == {2: [3, 3]} and told_pieces({"pieces": {}}) is told_pieces({}) is None
    assert told_pieces({"pieces": counts}).draw(seeded_generator(0)) == {2: 3}
    names, zeros = ["background", "liver", "portal vein"], torch.zeros(24)
    codec = Codec(HaarDistances(3), "label", names, zeros, zeros + 1)
    latent = codec.encode(torch.from_numpy(broken_vessel().argmax(0)[None, None]))[0]
    latent = latent + 1e-3 * torch.randn(latent.shape, generator=seeded_generator(0))  # distances alone are often equal
    forms = (None, LabelForm(pieces={2: 2}), LabelForm({2: 30}, {2: 1}))
    drawn = [codec.decode(latent, form=form)[0, 0].numpy() for form in forms]
    assert [pieces_of(label, 2)[1] for label in drawn] == [3, 2, 1] and abs((drawn[2] == 2).sum() - 30) <= 4


def test_classes_get_the_voxels_that_are_told_where_they_were_nearest_to_being_drawn():
    scores = broken_vessel() + 1e-3 * np.random.default_rng(0).random((3, 20, 8, 8))  # none are equal
    before, label = scores.argmax(0), with_voxels(scores, {2: 14}).argmax(0)
    assert (before == 2).sum() == 11 and (label == 2).sum() == 14
    assert (label[before == 2] == 2).all() and (label[8:11, 4, 4] == 2).all(), "what was drawn stays, its gap first"
    assert not (with_voxels(scores, {2: 0}).argmax(0) == 2).any(), "what a patient lacks stays away"
    far = with_voxels(scores, {2: 500}).argmax(0) == 2
    assert far.sum() < 100, "what lies far below all else is no vessel, whatever is told"
    assert with_voxels(scores, {}) is not scores and (scores.argmax(0) == before).all()


def test_the_form_of_each_case_is_what_its_network_is_told():
    sampler = LatentSampler(
        Codec(HaarDistances(3), "label", CHECKPOINT["class_names"], torch.zeros(24), torch.ones(24)),
        torch.nn.Identity(), RectifiedFlow(1), [24, 8, 8, 8], sizes=told_sizes(CHECKPOINT),
    )  # fmt: skip
    told, forms = sampler.draw_sizes([3, 5]), sampler.draw_forms([3, 5])
    assert [form.voxels for form in forms] == [{1: round(row[0] ** 3), 2: round(row[1] ** 3)} for row in told.tolist()]
