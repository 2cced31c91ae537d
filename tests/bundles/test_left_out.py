"""Voxels that pairs leave out (`lldm3d refine --contradicted left_out`): no segmentation learns from them."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss

from lldm3d.bundle import bundle_path
from lldm3d.data.augmentation import AugmentedBatch
from lldm3d.data.dataset import LEFT_OUT_VALUE, load_cases
from lldm3d.files import load_nifti, read_json, save_nifti, write_json
from lldm3d.pipeline.profile import SEGMENT_OVERLAY

from .small import CLASS_NAMES, SEGMENTATION
from .test_segmentation import TRAIN, run, train_in_chain, write

SIZE = (16, 16, 16)
CORNER = (slice(0, 4),) * 3  # left out; no class is near


def parse(bundle: str = "seg_unet", *overlays: str, **settings) -> ConfigParser:
    """The train.yaml of a bundle, of three classes."""
    parser = ConfigParser()
    parser.read_config([str(bundle_path(bundle) / TRAIN), *overlays])
    parser.update({"class_names": CLASS_NAMES, "roi_size": list(SIZE), **SEGMENTATION[bundle], **settings})
    return parser


def batch(parser: ConfigParser) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs as the loss takes them in training, of two cases, and their labels, a third of them left out."""
    torch.manual_seed(0)
    heads = (2,) if "deep_supervision" in parser.get() else ()
    label = torch.randint(0, 3, (2, 1, *SIZE), dtype=torch.uint8)
    label[torch.rand(label.shape) < 1 / 3] = LEFT_OUT_VALUE
    return torch.randn(2, *heads, 3, *SIZE, requires_grad=True), label


def by_hand(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Dice of both classes over the batch and cross-entropy, of the kept voxels alone: [voxels, 3] and [voxels]."""
    kept = label[:, 0] != LEFT_OUT_VALUE
    chosen, truth = logits.movedim(1, -1)[kept], torch.nn.functional.one_hot(label[:, 0][kept].long(), 3)
    probs = chosen.softmax(-1)
    dice = (2 * (probs * truth).sum(0) + 1e-5) / (probs.sum(0) + truth.sum(0) + 1e-5)
    return (1 - dice)[1:].mean() - (chosen.log_softmax(-1) * truth).sum(-1).mean()


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("bundle", SEGMENTATION)
def test_the_loss_and_its_gradient_are_those_of_the_other_voxels(bundle):
    """Of every bundle; a head of half weight is added where the network has several."""
    parser = parse(bundle)
    logits, label = batch(parser)
    heads = logits.unbind(1) if logits.dim() == 6 else [logits]
    wanted = sum(by_hand(head, label) / 2**number for number, head in enumerate(heads))
    loss = parser.get_parsed_content("loss")(logits, label)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    found = gradient(loss, logits)
    assert torch.allclose(found, gradient(wanted, logits), atol=1e-8)
    ignored = (label == LEFT_OUT_VALUE).view(2, *[1] * (logits.dim() - 4), *SIZE).expand_as(logits)
    assert not found[ignored].any() and found[~ignored].all()
    changed = torch.where(ignored, 30 * torch.randn_like(logits), logits)
    assert torch.equal(parser.get_parsed_content("loss")(changed, label), loss)


def test_without_such_voxels_the_loss_is_monai_s_and_of_none_but_such_it_is_nothing():
    parser = parse()
    logits, label = batch(parser)
    complete, loss = label % 3, parser.get_parsed_content("dice_ce")
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    assert loss(logits, complete).item() == pytest.approx(theirs(logits, complete).item(), rel=1e-6)
    empty = loss(logits, torch.full_like(label, LEFT_OUT_VALUE))
    assert empty == 0 and not gradient(empty, logits).any()
    assert parser.get_parsed_content("left_out") == LEFT_OUT_VALUE


@pytest.fixture
def pairs(tiny_dataset, tmp_path):
    """The tiny data set, a corner of each training label left out."""
    content = read_json(tiny_dataset / "dataset.json")
    for entry, case in zip(content["training"], load_cases(tiny_dataset, "training"), strict=True):
        label, affine = load_nifti(case.label)
        assert not label[CORNER].any(), "this test needs labels without a class there"
        label[CORNER] = LEFT_OUT_VALUE
        entry |= {"image": case.image, "label": str(tmp_path / f"left/{case.name}.nii.gz")}
        save_nifti(entry["label"], label.astype(np.uint8), affine)
    for split in ("validation", "test"):
        content[split] = [case.as_dict() for case in load_cases(tiny_dataset, split)]
    write_json(tmp_path / "left/dataset.json", content | {"left_out": LEFT_OUT_VALUE})
    return tmp_path / "left"


def crops(pairs, size: int, draws: int, *overlays: str, **settings) -> list[dict]:
    """Crops of the first case of some pairs, whose two classes the task takes as one."""
    of_task = {"dataset_dir": str(pairs), "targets": [0, 1, 1], "class_names": ["background", "organ"]}
    parser = parse("seg_unet", *overlays, **of_task, **{"window": [size] * 3, **settings})
    steps = parser.get_parsed_content("train#preprocessing").set_random_state(0)
    found = [steps(first_case(pairs)) for _ in range(draws)]
    return [item[0] if isinstance(item, list) else item for item in found]


def first_case(pairs) -> dict[str, str]:
    return read_json(pairs / "dataset.json")["training"][0]


def test_merged_classes_and_augmentation_keep_such_voxels_as_they_are(pairs):
    """A task's classes become one; turned and scaled, such voxels stay what they are, without other values between."""
    torch.manual_seed(0)
    turned = {"augmentation#rotation": 0.5, "augmentation#prob": 1.0}
    shown = [item["label"] for item in crops(pairs, 16, 5, **turned)]
    assert all(set(label.unique().tolist()) == {0, 1, LEFT_OUT_VALUE} for label in shown)
    assert any(not torch.equal(label, shown[0]) for label in shown)
    label = torch.stack([item["label"] for item in crops(pairs, 16, 2, str(SEGMENT_OVERLAY))])
    turn = AugmentedBatch(0.5, 0.1, 0.1, 0.1, 0.02, 1.0, 0.0)
    moved = turn({"image": torch.rand(label.shape), "label": label.clone()})[1]
    assert set(moved.unique().tolist()) == {0, 1, LEFT_OUT_VALUE} and not torch.equal(moved, label)


@pytest.mark.parametrize("overlays", [(), (str(SEGMENT_OVERLAY),)], ids=["bundle", "chain"])
def test_no_crop_is_drawn_round_such_voxels_for_the_sake_of_a_class(pairs, overlays):
    """Half of all crops lie round the one voxel of a class; 64 others would draw nearly all of them to themselves."""
    path = first_case(pairs)["label"]
    label, affine = load_nifti(path)
    label[:] = 0
    label[CORNER], label[12, 12, 12] = LEFT_OUT_VALUE, 1
    save_nifti(path, label.astype(np.uint8), affine)
    unchanged = {"augmentation#prob": 0.0, "augmentation#noise_prob": 0.0}
    shown = crops(pairs, 4, 80, *overlays, **unchanged)
    assert all(set(item) == {"image", "label"} for item in shown)
    assert 20 < sum(bool((item["label"] == 1).any()) for item in shown) < 60  # 40 of 80, 4.5 standard deviations


@pytest.mark.parametrize("chain", [False, True])
def test_trainings_take_such_pairs(pairs, tmp_path, chain):
    (tmp_path / "out").mkdir()
    if chain:
        state = train_in_chain(tmp_path / "out", "seg_unet", pairs, epochs=1, epoch_length=2)["network"]
    else:
        run("training", [TRAIN, write(tmp_path / "out", "seg_unet", pairs, epochs=1, epoch_length=2)])
        state = torch.load(tmp_path / "out/model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())
