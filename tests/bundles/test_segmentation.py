"""The segmentation bundles on tiny data. They differ by their network alone (test_same.py): one is trained to learn."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export
from monai.networks import one_hot

from lldm3d.bundle import bundle_path
from lldm3d.pipeline.profile import SEGMENT_OVERLAY
from lldm3d.study.scores import write_data_lists

from .small import CLASS_NAMES, SEGMENTATION

TRAIN, EVALUATE, INFERENCE = "configs/train.yaml", "configs/evaluate.yaml", "configs/inference.yaml"
TRACED = ("seg_dynunet", "seg_swinunetr")  # torch.jit.script refuses MONAI's code of both
LARGE = ("seg_vnet", "seg_swinunetr")  # no width to set, or windows: seconds a step
BUNDLES = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in SEGMENTATION]
TEST_CASES = ["case_06", "case_07"]


def run(run_id: str, files: list[str], bundle: str = "seg_unet", **settings) -> None:
    """What `monai.bundle run` does with the files, in this process."""
    flow = ConfigWorkflow(
        config_file=[str(bundle_path(bundle) / file) for file in files],
        meta_file=str(bundle_path(bundle) / "configs/metadata.json"),
        logging_file=False,
        run_id=run_id,
        bundle_root=str(bundle_path(bundle)),
        **settings,
    )
    flow.initialize()
    flow.run()
    flow.finalize()


def write(folder: Path, bundle: str, dataset: Path, **settings) -> str:
    """Write `overrides.yaml` of a training of seconds into `folder`, its `output_dir`, and return its path."""
    common = {
        "dataset_dir": str(dataset),
        "output_dir": str(folder),
        "class_names": CLASS_NAMES,
        "roi_size": [16, 16, 16],
        "epochs": 2,
        "epoch_length": 8,
        "val_interval": 1,
        "learning_rate": 0.01,
        "device": "$torch.device('cpu')",
        "amp": False,
    }
    (folder / "overrides.yaml").write_text(yaml.safe_dump({**common, **SEGMENTATION[bundle], **settings}))
    return str(folder / "overrides.yaml")


def train_in_chain(folder: Path, bundle: str, dataset: Path, **settings) -> dict:
    """Train as the chain does and return the state that it leaves."""
    settings = {"cache_dir": str(folder / "cache"), **settings}
    run("training", [TRAIN, str(SEGMENT_OVERLAY), write(folder, bundle, dataset, **settings)], bundle)
    return torch.load(folder / "state.pt", weights_only=True)


def infer(folder: Path, bundle: str) -> None:
    """Segment the test cases with the weights in `folder`, with those of its settings that inference knows."""
    known = yaml.safe_load((bundle_path(bundle) / INFERENCE).read_text())
    settings = yaml.safe_load((folder / "overrides.yaml").read_text())
    kept = {key: value for key, value in settings.items() if key.split("#")[0] in known}
    (folder / "inference.yaml").write_text(yaml.safe_dump({**kept, "output_dir": str(folder / "predictions")}))
    run("inferring", [INFERENCE, str(folder / "inference.yaml")], bundle, ckpt_path=str(folder / "model.pt"))


def dice(folder: Path, class_names: list[str]) -> dict[tuple[str, str], float]:
    """What `evaluating` measured, and that it measured each distance and surface Dice as well."""
    tables = [(folder / f"evaluation/val_{name}_raw.csv").read_text() for name in ("mean_dice", "hd95", "nsd")]
    rows = [[line.split(",") for line in table.splitlines()[1:]] for table in tables]  # filename, class0, ..., mean
    assert all([Path(row[0]).name.removesuffix(".nii.gz") for row in table] == TEST_CASES for table in rows)
    assert all(len(row) == len(class_names) + 1 for table in rows for row in table)
    return {
        (case, name): float(value)
        for case, row in zip(TEST_CASES, rows[0], strict=True)
        for name, value in zip(class_names[1:], row[1:-1], strict=True)
    }


def test_a_training_learns_and_every_test_case_and_class_is_measured(tiny_dataset, tmp_path):
    overrides = write(tmp_path, "seg_unet", tiny_dataset)
    run("training", [TRAIN, overrides])
    state = torch.load(tmp_path / "model.pt", weights_only=True)  # plain tensors
    assert all(torch.isfinite(value).all() for value in state.values())
    run("evaluating", [TRAIN, EVALUATE, overrides])
    assert max(dice(tmp_path, CLASS_NAMES).values()) > 0.5


def test_merged_classes_are_learnt_as_one_and_inferred(tiny_dataset, tmp_path):
    """Liver and the vein in it, as one class of the task."""
    names = ["background", "organ"]
    overrides = write(tmp_path, "seg_unet", tiny_dataset, class_names=names, targets=[0, 1, 1])
    run("training", [TRAIN, overrides])
    run("evaluating", [TRAIN, EVALUATE, overrides])
    assert min(dice(tmp_path, names).values()) > 0.8  # of the vein, which is brighter than liver, as well
    infer(tmp_path, "seg_unet")
    predictions = sorted(file.name for file in (tmp_path / "predictions").iterdir())
    assert predictions == [f"{case}_pred.nii.gz" for case in TEST_CASES]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_chain_trains_every_bundle(bundle, tiny_dataset, tmp_path):
    state = train_in_chain(tmp_path, bundle, tiny_dataset, epochs=1, epoch_length=2)
    assert all(torch.isfinite(value).all() for value in state["network"].values())
    run("evaluating", [TRAIN, EVALUATE, str(tmp_path / "overrides.yaml")], bundle)
    dice(tmp_path, CLASS_NAMES)


@pytest.mark.parametrize("size, expected", [([32, 48, 32], True), ([32, 32, 16], True), ([16, 32, 32], False)])
def test_a_cpu_trains_in_bfloat16_where_its_gradients_are_right(size, expected):
    """In torch 2.13 they are random where a 3x3x3 convolution has 2 voxels along its first axis."""
    parser = ConfigParser()
    parser.read_config([str(bundle_path("seg_resunet") / TRAIN), SEGMENT_OVERLAY])
    parser.update({"roi_size": size, "device": torch.device("cpu")})
    assert parser.get_parsed_content("autocast") is expected


def test_a_training_that_learns_nothing_stops_early_also_when_resumed_and_then_not_again(tiny_dataset, tmp_path):
    """The second run begins with one validation without a lower loss, the third with a training that has stopped."""
    overrides = {"learning_rate": 0.0, "epoch_length": 2, "patience": 2}
    for epochs, reached in ((2, 2), (9, 3), (9, 3)):
        state = train_in_chain(tmp_path, "seg_unet", tiny_dataset, epochs=epochs, **overrides)
        assert state["epoch"] == reached
        assert state["stopped"] == (reached < epochs), "the study's tables count what ended at the cap"


def test_a_resumed_training_ends_with_the_weights_of_one_that_was_not_stopped(tiny_dataset, tmp_path):
    """With the crops and the augmentation of whole batches that the chain lays over the bundle."""
    for folder, all_epochs in (("whole", (2,)), ("resumed", (1, 2))):
        (tmp_path / folder).mkdir()
        for epochs in all_epochs:
            train_in_chain(tmp_path / folder, "seg_unet", tiny_dataset, epochs=epochs, epoch_length=3)
    whole, resumed = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "resumed"))
    assert whole["epoch"] == resumed["epoch"] == 2
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())


def test_trainings_share_their_volumes(tiny_dataset, tmp_path):
    """Another network, seed and order of cases read what the first has left, and write nothing."""
    left = []
    for bundle, seed in (("seg_unet", 0), ("seg_resunet", 1)):
        (tmp_path / bundle).mkdir()
        settings = {"cache_dir": str(tmp_path / "cache"), "seed": seed, "epochs": 1, "epoch_length": 1}
        train_in_chain(tmp_path / bundle, bundle, tiny_dataset, **settings)
        left.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.pt")})
    assert len(left[0]) == 4 + 2 and left[0] == left[1]  # training and validation cases


def test_real_cases_that_count_twice_are_seen_twice_and_kept_once(tiny_dataset, tiny_synthetic, tmp_path):
    """By the bundle as it is, and in the chain, whose batches mix both."""
    write_data_lists(tiny_dataset, tiny_synthetic, "2xR+0.5S", 0, tmp_path)
    parser = parse(TRAIN, dataset_dir=str(tmp_path), class_names=CLASS_NAMES)
    seen = Counter(Path(case["image"]).parents[1] for case in parser.get_parsed_content("train#cases"))
    assert seen == {tiny_dataset: 8, tiny_synthetic: 2}
    assert len(parser.get_parsed_content("train#dataset")._cache) == 4 + 2
    settings = {"cache_dir": str(tmp_path / "cache"), "epochs": 1, "epoch_length": 6, "batch_size": 2}
    train_in_chain(tmp_path, "seg_unet", tmp_path, **settings)
    assert len(list((tmp_path / "cache").rglob("*.pt"))) == 4 + 2 + 2


def parse(*files: str, bundle: str = "seg_unet", **settings) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle_path(bundle) / file) for file in files])
    parser.update(settings)
    return parser


def test_distances_are_in_mm(tiny_dataset):
    """A voxel is 1 x 1 x 2 mm in the tiny data set: moved by one voxel along z, a cube is 2 mm off."""
    label = torch.zeros(1, 1, 16, 16, 16)
    label[..., 4:9, 4:9, 4:9] = 1
    pair = one_hot(label.roll(1, dims=-1), 2), one_hot(label, 2)
    names = {"class_names": ["background", "cube"], "dataset_dir": str(tiny_dataset)}
    assert measured("val_hd95", pair, **names) == pytest.approx(2.0)
    assert measured("val_nsd", pair, **names) == 1  # the default tolerance is the longest edge of a voxel
    assert measured("val_nsd", pair, tolerance=1.9, **names) < 1


def measured(name: str, pair: tuple, **settings) -> float:
    metric = parse(TRAIN, EVALUATE, **settings).get_parsed_content(f"validate#additional_metrics#{name}")
    metric.attach(Engine(lambda *_: None), name)
    metric.update(pair)
    return metric.compute()


@pytest.mark.parametrize("bundle", SEGMENTATION)
def test_every_network_takes_padded_crops_and_its_loss_reaches_all_weights(bundle):
    parser = parse(TRAIN, bundle=bundle, roi_size=[20, 33, 16], **SEGMENTATION[bundle])
    window, network, loss = (parser.get_parsed_content(name) for name in ("window", "network_def", "loss"))
    assert all(size >= least for size, least in zip(window, (20, 33, 16), strict=True))
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 1, *window)).shape == (1, 5, *window)
    label = torch.randint(0, 5, (1, 1, *window))
    loss(network.train()(torch.rand(1, 1, *window)), label).backward()
    assert all(weight.grad is not None for weight in network.parameters() if weight.requires_grad)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_exported_network_gives_the_same(bundle, tmp_path):
    """TorchScript, by MONAI's ckpt_export with the options that the bundle's document gives."""
    settings = {"roi_size": [32, 32, 32], **SEGMENTATION[bundle]}
    network = parse(INFERENCE, bundle=bundle, **settings).get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    config, metadata = bundle_path(bundle) / INFERENCE, bundle_path(bundle) / "configs/metadata.json"
    files = {"config_file": str(config), "meta_file": str(metadata), "ckpt_file": str(tmp_path / "model.pt")}
    traced = {"use_trace": True, "input_shape": [1, 1, 32, 32, 32]} if bundle in TRACED else {}
    ckpt_export("network_def", str(tmp_path / "model.ts"), **files, **traced, **settings)
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        exported = torch.jit.load(tmp_path / "model.ts")(image)
        torch.testing.assert_close(exported, network(image), rtol=1e-4, atol=1e-4)


def test_deep_supervision_teaches_the_coarse_outputs_and_is_gone_in_validation():
    parser = parse(TRAIN, bundle="seg_dynunet", **SEGMENTATION["seg_dynunet"] | {"roi_size": [32, 32, 32]})
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss")
    image, label = torch.rand(2, 1, 32, 32, 32), torch.randint(0, 5, (2, 1, 32, 32, 32))
    loss(network.train()(image), label).backward()
    heads = list(network.deep_supervision_heads.parameters())
    assert heads and all(weight.grad.abs().sum() > 0 for weight in heads)
    assert network.eval()(image).shape == (2, 5, 32, 32, 32)
