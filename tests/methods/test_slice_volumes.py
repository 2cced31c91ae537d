"""Volumes from slices: windows, what is held in them, depth layers, and from which slice a volume begins."""

import nibabel as nib
import numpy as np
import pytest
import torch
from tests.bundles.small import DENOISER
from tests.evaluation.toys import write_segmenter
from tests.in_process import bundles_run_here

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarTransform
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.scans import read_pair
from lldm3d.data.warping import LabelMoves
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.windows import windows
from lldm3d.errors import ChildError, UserError
from lldm3d.evaluation.harmonise import harmonise
from lldm3d.files import read_json, save_nifti
from lldm3d.methods.slice_volumes import SliceDiffusion, StartSlice, VolumeDraw, WindowBatch
from lldm3d.pairs.generate import generate

NET = {"latent_channels": 4, "num_classes": 3, "stride": 2, **DENOISER}


def process(steps: int = 5) -> GaussianDiffusion:
    return GaussianDiffusion(steps, prediction_type="v_prediction", variance="small", clip=torch.nn.Identity())


def codec() -> Codec:
    return Codec(HaarTransform(axes=2), "image", ["background", "a", "b"], torch.zeros(4), torch.ones(4))


def network(**settings) -> SliceDiffusion:
    """With weights of which none is zero but those of the depth layers."""
    torch.manual_seed(0)
    found = SliceDiffusion(**NET, **settings).eval()
    along = {id(weight) for layer in found.depth_layers() for weight in layer.along.parameters()}
    for weight in found.parameters():
        if id(weight) not in along:
            torch.nn.init.normal_(weight, std=0.1)
    return found


@pytest.mark.parametrize("overlap", [1, 3])
@pytest.mark.parametrize("depth", [16, 17, 30, 100])
def test_each_slice_is_written_once_and_what_is_held_is_there(depth, overlap):
    for start in range(depth):
        for held in (True, False):
            there = {start} if held else set()
            for window in windows(depth, 16, start, held, overlap):
                assert 0 <= window.first <= depth - 16 and not there & set(window.new)
                assert {*window.held} == there & {*range(window.first, window.first + 16)}
                assert window.informed in window.held if there else window.informed is None
                assert {*window.held, *window.new} == {*range(window.first, window.first + 16)}
                there |= set(window.new)
            assert there == set(range(depth))


def test_the_first_windows_both_ways_hold_the_start_and_independent_ones_nothing():
    found = list(windows(48, 16, 24))
    assert (found[0].first, found[0].held) == (24, (24,)) and (found[2].first, found[2].held) == (9, (24,))
    apart = list(windows(30, 16, overlap=0))
    assert [window.new for window in apart] == [(*range(16),), (*range(16, 30),)]
    assert not any(window.held or window.informed is not None for window in apart)


@pytest.mark.parametrize(("size", "overlap"), [(16, 16), (16, 99), (16, -1), (0, 0), ("x", 0), (1.5, 1)])
def test_windows_that_would_never_reach_the_end_are_refused(size, overlap):
    with pytest.raises(UserError, match=f"--window {size}, --overlap {overlap}: windows share from 0 to less"):
        list(windows(48, size, 24, overlap=overlap))


def test_depth_layers_begin_as_nothing_bit_by_bit_and_then_alone_learn():
    plain, deep = network(informed=True), network(informed=True, depth=True)
    x, label, known = torch.randn(2, 4, 8, 8, 5), torch.rand(2, 3, 16, 16, 5), torch.randn(2, 4, 8, 8, 1)
    seen = (x, torch.tensor([3, 700]), label, known)
    assert torch.equal(plain(*seen), deep(*seen))
    learnt = deep.learnt()
    assert len(learnt) + len(plain.learnt()) == len(list(deep.parameters()))
    torch.optim.SGD(learnt, 0.1).zero_grad()
    deep(*seen).square().sum().backward()
    torch.optim.SGD(learnt, 0.1).step()
    assert not torch.equal(plain(*seen), deep(*seen))
    moved = x.clone()
    moved[..., 4] += 1
    assert torch.equal(plain(moved, *seen[1:])[..., 0], plain(*seen)[..., 0])  # slices do not see each other
    assert not torch.equal(deep(moved, *seen[1:])[..., 3], deep(*seen)[..., 3])


def test_a_held_slice_has_the_noise_of_the_step_at_its_own_depth():
    """Of a volume of 30 slices begun at 20 the last window is pushed back, and holds two slices in its middle."""
    inputs, found = [], process(40)

    class Answers(torch.nn.Module):
        stride = 2

        def forward(self, x, timesteps, condition, informed):
            inputs.append((x.clone(), int(timesteps[0])))
            return torch.zeros_like(x)

    draw = VolumeDraw(Answers(), found, codec(), "cpu", overlap=1, autocast=False)
    image = torch.full((1, 1, 32, 32, 1), 0.5)
    label, generator = torch.zeros(1, 3, 32, 32, 30), torch.Generator().manual_seed(0)
    latent = draw.draw(label, generator, StartSlice(image, 20, held=True))
    torch.testing.assert_close(latent[..., 20, None], codec().encode(image)[0])
    for x, timestep in inputs[1:40]:  # first window: slices 14 to 29
        rest = x[:, 1:, ..., 20 - 14]  # bands of a flat slice, 0 but for noise
        torch.testing.assert_close(rest.std(), found.training["noise"][timestep].float(), rtol=0.1, atol=0)
    assert latent.abs().sum((0, 1, 2, 3)).min() > 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_gives_each_slice_its_noise_and_a_slice_of_the_window(shared):
    batch = WindowBatch(process(), codec(), 3, informed=True, shared_time=shared, seed=1)
    label = torch.randint(3, (2, 1, 16, 16, 6))
    data = {"image": torch.rand(2, 1, 16, 16, 6), "label": label, "index": torch.tensor([4, 2])}
    noisy, target, _, seen = batch(data)
    assert (seen["timesteps"][0].unique().numel() == 1) == shared
    assert torch.equal(noisy, batch(data)[0])
    signal = process().training["signal"].float()[seen["timesteps"]][:, None, None, None]
    noise = process().training["noise"].float()[seen["timesteps"]][:, None, None, None]
    torch.testing.assert_close(noisy, signal * target["latent"] + noise * target["noise"])
    for known, latent in zip(seen["informed"], target["latent"], strict=True):
        assert any(torch.equal(known, one) for one in latent.split(1, -1))
    often = torch.stack([batch.times(1, None) for _ in range(2000)]).double()
    assert abs(often.mean() - (444 if shared else 500)) < 25  # of weights 2000 - t


def test_haar_bands_of_slices_keep_all_and_each_slice_alone():
    volume = torch.rand(1, 1, 6, 8, 5)
    bands, _ = HaarTransform(axes=2).encode(volume)
    assert bands.shape == (1, 4, 3, 4, 5)
    torch.testing.assert_close(HaarTransform(axes=2).decode(bands), volume)
    assert torch.equal(HaarTransform(axes=2).encode(volume[..., 2:3])[0], bands[..., 2:3])


def test_label_moves_stay_within_their_ranges_in_mm():
    label = torch.zeros(1, 1, 40, 40, 3, dtype=torch.uint8)
    label[..., 18:22, 16:24, :] = 2
    same = LabelMoves([2.0, 1.0, 1.0])(label, 0, [3])
    assert same is label
    for index in range(8):
        moved = LabelMoves([2.0, 1.0, 1.0], shift=8)(label, 0, [index])
        places = [found.nonzero()[:, 2:].float().mean(0) for found in (moved, label)]
        step = (places[0] - places[1]) * torch.tensor([2, 1, 1])
        assert moved.unique().tolist() == [0, 2] and step.norm() < 9.5 and step[2] == 0
    empty = torch.zeros_like(label)
    assert torch.equal(LabelMoves([2.0, 1.0, 1.0], shift=8)(empty, 0, [3]), empty)


def test_a_label_that_leaves_the_volume_is_told():
    label = torch.ones(1, 1, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(UserError, match="--shift 1e9|--shift 1000000000.0: moves all that is labelled out"):
        LabelMoves([1.0, 1.0, 1.0], shift=1e9)(label, 0, [0])


@pytest.mark.parametrize("value", [-1, "x", float("nan"), float("inf")])
def test_a_label_is_moved_by_a_number(value):
    with pytest.raises(UserError, match=f"--rotation {value}: must be a number of at least 0"):
        LabelMoves([1, 1, 1], rotation=value)


@pytest.fixture
def done(trained, with_guest):
    """A work directory with a trained gem3d."""
    return trained("gem3d")


def drawn(work, output, **settings) -> dict[str, np.ndarray]:
    with bundles_run_here():
        generate(str(work), str(output), "gem3d", num_inference_steps=2, autocast=False, **settings)
    return {path.name: nib.load(path).get_fdata() for path in sorted(output.glob("imagesTr/*.nii.gz"))}


@pytest.mark.slow
def test_a_volume_begins_from_its_own_slice_which_stays(done, tmp_path):
    case = load_cases(done / "dataset", "test")[0]
    label = tmp_path / f"{case.name}_edited.nii.gz"
    array, affine = np.asanyarray(nib.load(case.label).dataobj).copy(), nib.load(case.label).affine
    array[:4, :4, :4] = 1
    save_nifti(label, array, affine)
    image = drawn(done, tmp_path / "own", label=str(label), start="own", start_slice=5)[label.name]
    real = nib.load(case.image).get_fdata()
    np.testing.assert_allclose(image[..., 5], real[..., 5], atol=2e-3)
    assert np.abs(image[..., 6] - real[..., 6]).max() > 0.01
    other = drawn(done, tmp_path / "other", label=str(label), start="other_patient", start_slice=5)[label.name]
    assert np.abs(other[..., 5] - real[..., 5]).max() > 0.01
    assert read_json(tmp_path / "own/manifest.json")["settings"]["start"] == "own"


@pytest.mark.slow
def test_what_cannot_be_drawn_is_refused_and_nothing_written(done, tmp_path):
    case = load_cases(done / "dataset", "test")[0]
    wrong = {
        "did you mean own": {"start": "ovn"},
        "--start_slice 99 lies outside": {"start_slice": 99},
        "16 slices, fewer than the 17 of a window": {"window": 17},
        "--rotation -1.0: must be": {"rotation": -1.0},
        "which moved labels do not fit": {"start": "own", "shift": 2.0},
    }
    for number, (message, settings) in enumerate(wrong.items()):
        with pytest.raises((UserError, ChildError), match=message):
            drawn(done, tmp_path / f"out{number}", label=case.label, **settings)
        assert not list(tmp_path.glob(f"out{number}/*Tr"))


@pytest.mark.slow
def test_a_data_set_is_drawn_anew_from_one_slice(done, tmp_path):
    cases = {case.name: case for case in load_cases(done / "dataset", "training")}
    with bundles_run_here():
        harmonise(str(done), next(iter(cases)), str(tmp_path / "out"), n=2, num_inference_steps=2)
    found = read_json(tmp_path / "out/harmonise.json")
    names = load_schema(done / "dataset").class_names[1:]
    assert found["cases"] == 2 and list(found["spread"]) == list(names) and found["dice"] is None
    for place, name in enumerate(names, start=1):
        masks = [(read_pair(case, load_schema(done / "dataset")), place) for case in list(cases.values())[:2]]
        means = [scan.image[scan.label == value].mean() for scan, value in masks]
        assert found["spread"][name]["before"]["std"] == pytest.approx(np.std(means, ddof=1), rel=1e-4)
    redrawn = load_cases(tmp_path / "out", "training")
    for case in redrawn:
        np.testing.assert_array_equal(nib.load(case.label).get_fdata(), nib.load(cases[case.name].label).get_fdata())
    assert (tmp_path / "out/harmonise.png").stat().st_size > 1000
    write_segmenter(done / "segment/steps/seg_resunet/multi/R/real/seed_0", load_schema(done / "dataset").class_names)
    with bundles_run_here():
        harmonise(str(done), next(iter(cases)), str(tmp_path / "out"), n=2, num_inference_steps=2)
    assert set(read_json(tmp_path / "out/harmonise.json")["dice"]) == {"before", "after"}
    with pytest.raises(UserError, match="--start: is given by --reference"):
        harmonise(str(done), "x", str(tmp_path / "none"), start="own")
