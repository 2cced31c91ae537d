import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from lldm3d import processes
from lldm3d.data import case_preparation
from lldm3d.data.checks import check, faults_of
from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.prepare import prepare
from lldm3d.data.regimes import regime_cases
from lldm3d.data.scans import read_pair
from lldm3d.data.sources import open_source
from lldm3d.errors import UserError

from .raw import load, save, volumes, write_decathlon


def patients(dataset_dir: Path) -> dict[str, list[str]]:
    return {split: sorted(case.patient for case in load_cases(dataset_dir, split)) for split in SPLITS}


def all_cases(dataset_dir: Path) -> list[dict]:
    return [case for split in SPLITS for case in load_cases(dataset_dir, split)]


def test_a_decathlon_folder_becomes_a_data_set_that_monai_and_the_chain_read(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 10, tubular=["vein"], inside={"vein": "liver"})
    prepare(tmp_path / "out", data=raw)
    schema = load_schema(tmp_path / "out")
    assert schema.class_names == ("background", "liver", "vein")
    assert (schema.tubular, schema.inside) == (("vein",), {"vein": "liver"})
    assert schema.roi_size == (16, 16, 16) and schema.spacing == (1, 1, 1)
    assert [len(load_cases(tmp_path / "out", split)) for split in SPLITS] == [7, 1, 2]
    assert len(load_decathlon_datalist(str(tmp_path / "out/dataset.json"), data_list_key="training")) == 7
    for case in all_cases(tmp_path / "out"):
        image, label = load(case.image), load(case.label)
        assert image.shape == label.shape == (16, 16, 16)
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert image.min() == 0 and image.max() == 1
        assert np.bincount(label.ravel())[1:].tolist() == np.bincount(volumes()[1].ravel())[1:].tolist()
        assert image[label == 1].mean() < image[label == 2].mean(), "image and label fit no more"
    assert faults_of(open_source(tmp_path / "out")) == []


def test_nnunet_folder(tmp_path):
    for number in range(3):
        image, label = volumes(seed=number)
        save(tmp_path / f"raw/imagesTr/a{number}_0000.nii.gz", image)
        save(tmp_path / f"raw/labelsTr/a{number}.nii.gz", label)
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1, "vein": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(about))
    prepare(tmp_path / "out", data=tmp_path / "raw")
    assert load_schema(tmp_path / "out").class_names == ("background", "liver", "vein")
    assert patients(tmp_path / "out").keys() and len(all_cases(tmp_path / "out")) == 3


def test_nnunet_with_several_channels_needs_a_choice(tmp_path):
    for number in range(3):
        image, label = volumes(seed=number)
        save(tmp_path / f"raw/imagesTr/a{number}_0000.nii.gz", np.zeros_like(image))
        save(tmp_path / f"raw/imagesTr/a{number}_0001.nii.gz", image)
        save(tmp_path / f"raw/labelsTr/a{number}.nii.gz", label)
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "liver": 1, "vein": 2}}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="--channel"):
        prepare(tmp_path / "out", data=tmp_path / "raw")
    prepare(tmp_path / "out", data=tmp_path / "raw", channel=1)
    assert load(all_cases(tmp_path / "out")[0].image).max() == 1


def test_folders_with_a_label_map_drop_other_values_and_say_so(tmp_path, capsys):
    for number in range(3):
        image, label = volumes(seed=number)
        label[0, 0, 0] = 9
        save(tmp_path / f"images/a{number}.nii.gz", image)
        save(tmp_path / f"labels/a{number}.nii.gz", label)
    (tmp_path / "map.yaml").write_text("classes: {vessel: [2, 7], liver: 1}\ntubular: [vessel]\n")
    folders = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    prepare(tmp_path / "out", **folders, label_map=tmp_path / "map.yaml")
    assert load_schema(tmp_path / "out").class_names == ("background", "vessel", "liver")
    label = load(all_cases(tmp_path / "out")[0].label)
    assert ((label == 1).sum(), (label == 2).sum()) == ((volumes()[1] == 2).sum(), (volumes()[1] == 1).sum())
    assert "leaves out 1 values" in capsys.readouterr().out
    check(**folders, label_map={"vessel": 2, "liver": 1, "HCC": 4})
    assert "classes that no case has: HCC" in capsys.readouterr().out
    (tmp_path / "labels/a2.nii.gz").unlink()
    with pytest.raises(UserError, match=r"a2 \(no label\)"):
        prepare(tmp_path / "out2", **folders, label_map={"liver": 1})
    with pytest.raises(UserError, match="--label_map"):
        (tmp_path / "images/a2.nii.gz").unlink()
        prepare(tmp_path / "out2", **folders)


def test_other_orientations_are_turned_to_ras(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3)
    image, label = volumes(seed=1)
    flip = np.array([[0, -2.0, 0, 7], [-1, 0, 0, 9], [0, 0, 3, 1], [0, 0, 0, 1]])
    ras = nib.as_closest_canonical(nib.Nifti1Image(label, flip))
    for key, array in (("images", image), ("labels", label)):
        save(raw / f"{key}Tr/case_1.nii.gz", array, flip)
    prepare(tmp_path / "out", data=raw, spacing=(2, 1, 3), roi_size=(32, 32, 16))
    case = next(case for case in all_cases(tmp_path / "out") if case.patient == "case_1")
    written = nib.load(case.label)
    assert nib.aff2axcodes(written.affine) == ("R", "A", "S")
    for value in (1, 2):  # every voxel lies where it lay in the world
        points = [
            nib.affines.apply_affine(volume.affine, np.argwhere(np.asarray(volume.dataobj) == value)).mean(0)
            for volume in (ras, written)
        ]
        np.testing.assert_allclose(*points, atol=1e-4)


def oblique(angle: float, size=(24, 24, 12), spacing=(1.0, 1.0, 4.0)) -> np.ndarray:
    """Affine of a stack of upright slices, which lie across x turned by `angle` degrees about z, round 0 mm."""
    angle = np.deg2rad(angle)
    across, along = np.array([np.cos(angle), np.sin(angle), 0]), np.array([-np.sin(angle), np.cos(angle), 0])
    matrix = np.stack([along, [0, 0, 1], across], axis=1) * spacing
    return nib.affines.from_matvec(matrix, -matrix @ (np.array(size) - 1) / 2)


def write_stacks(raw: Path, angles: list[float]) -> None:
    """Oblique stacks of slices of one ball of 9 mm at (2, 1, -1) mm, with a small one on it."""
    write_decathlon(raw, len(angles))
    for number, angle in enumerate(angles):
        affine = oblique(angle)
        x, y, z = np.moveaxis(nib.affines.apply_affine(affine, np.moveaxis(np.indices((24, 24, 12)), 0, -1)), -1, 0)
        label = (((x - 2) ** 2 + (y - 1) ** 2 + (z + 1) ** 2) < 81).astype(np.uint8)
        label[((x - 2) ** 2 + (y - 9) ** 2 + (z + 1) ** 2) < 16] = 2
        image = 100.0 * label + np.random.default_rng(number).normal(0, 5, label.shape)
        save(raw / f"imagesTr/case_{number}.nii.gz", image.astype(np.float32), affine)
        save(raw / f"labelsTr/case_{number}.nii.gz", label, affine)


def test_oblique_stacks_keep_their_planes_and_their_places(tmp_path, capsys):
    """Cardiac short axes about 45 degrees: the nearest RAS would put the thick axis on x in some, on y in others."""
    write_stacks(tmp_path / "raw", angles := [30, 40, 43, 47, 50])
    prepare(tmp_path / "out", data=tmp_path / "raw")
    assert "in RAS the slices lie across x in 3, y in 2 cases; all keep the axes" in capsys.readouterr().out
    schema = load_schema(tmp_path / "out")
    assert schema.spacing == (1, 1, 4) and schema.roi_size == (32, 32, 16) and schema.orientation == "stored"
    for case in all_cases(tmp_path / "out"):
        scan = read_pair(case, schema)
        angle = angles[int(case.name[-1])]
        np.testing.assert_allclose(scan.affine[:3, :3], oblique(angle)[:3, :3], atol=1e-4)
        found = [nib.affines.apply_affine(scan.affine, np.argwhere(scan.label == value)).mean(0) for value in (1, 2)]
        assert abs(found[0][0] - 2) < 1 and abs(found[1][1] - 9) < 1.5, "the patient lies where he lay"
        assert abs(scan.image[scan.label == 1].mean() - scan.image[scan.label == 2].mean()) > 0.2
    check(tmp_path / "out")
    prepare(tmp_path / "turned", data=tmp_path / "raw", orientation="ras")
    assert load_schema(tmp_path / "turned").orientation == "ras"
    with pytest.raises(UserError, match="--orientation 'LPS': allowed are ras, stored"):
        prepare(tmp_path / "other", data=tmp_path / "raw", orientation="LPS")


def test_a_label_is_turned_with_its_image_not_by_itself(tmp_path):
    """At 45 degrees a ten-thousandth of a degree decides which axis is nearest; and a label may have other axes."""
    write_stacks(tmp_path / "raw", [45] * 3)
    path = tmp_path / "raw/labelsTr/case_0.nii.gz"
    for angle in (45.0001, 44.9999, 44.97, 45.03):
        save(path, load(path), oblique(angle))
        prepare(tmp_path / f"out_{angle}", data=tmp_path / "raw")
    expected = next(case for case in all_cases(tmp_path / "out_45.0001") if case.name == "case_0")
    other = nib.load(path).as_reoriented(nib.orientations.axcodes2ornt("LIP"))
    nib.save(other, path)
    prepare(tmp_path / "other", data=tmp_path / "raw")
    found = next(case for case in all_cases(tmp_path / "other") if case.name == "case_0")
    assert np.array_equal(load(found.label), load(expected.label))


def test_cases_of_different_spacing_get_the_median(tmp_path, capsys):
    raw = write_decathlon(tmp_path / "raw", 3)
    image, label = volumes(seed=2)
    for key, array in (("images", image), ("labels", label)):
        save(raw / f"{key}Tr/case_2.nii.gz", array, np.diag([2.0, 2, 2, 1]))
    prepare(tmp_path / "out", data=raw)
    assert load_schema(tmp_path / "out").spacing == (1, 1, 1)
    assert "resampled to the median" in capsys.readouterr().out
    volume = {c.patient: (load(c.label) > 0).sum() for c in all_cases(tmp_path / "out")}
    assert volume["case_2"] == pytest.approx(8 * volume["case_1"], rel=0.1)


def test_crop_keeps_the_chosen_class_in_the_middle(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_decathlon(raw, 3)
    for number in range(3):
        label = np.zeros((60, 60, 40), np.uint8)
        label[5:30, 20:50, 5:30] = 1
        label[24:28, 40:44, 10:14] = 2
        save(raw / f"labelsTr/case_{number}.nii.gz", label)
        save(raw / f"imagesTr/case_{number}.nii.gz", label + np.float32(number))
    prepare(tmp_path / "out", data=raw, roi_size=(16, 16, 16), center="vein")
    label = load(all_cases(tmp_path / "out")[0].label)
    assert (label == 2).sum() == 64
    np.testing.assert_array_equal(np.argwhere(label == 2).min(0), [6, 6, 6])
    assert "cuts off" in capsys.readouterr().out
    with pytest.raises(UserError, match="allowed are foreground, image, liver, vein"):
        prepare(tmp_path / "out2", data=raw, center="spleen")


def test_percentile_scaling_is_robust_to_an_outlier(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3)
    for number in range(3):
        image, _ = volumes(seed=number)
        image[0, 0, 0] = 1e6
        save(raw / f"imagesTr/case_{number}.nii.gz", image)
    for intensity, contrast in (("min_max", (0, 0.01)), ("percentile", (0.3, 1))):
        options = {"percentiles": (0.1, 99.9)} if intensity == "percentile" else {}
        prepare(tmp_path / intensity, data=raw, intensity=intensity, **options)
        case = all_cases(tmp_path / intensity)[0]
        image, label = load(case.image), load(case.label)
        assert image.min() >= 0 and image.max() <= 1
        assert contrast[0] < image[label == 2].mean() - image[label == 1].mean() < contrast[1]


def test_a_window_gives_a_tissue_one_value_in_all_cases(tmp_path, capsys):
    raw = write_decathlon(tmp_path / "raw", 3)
    for number in range(3):
        image, label = volumes(seed=number)
        image[label == 0] = -1000
        image[0, 0, 0] = 3000 * (number + 1)
        save(raw / f"imagesTr/case_{number}.nii.gz", image)
    prepare(tmp_path / "scaled", data=raw)
    assert "look like Hounsfield units" in capsys.readouterr().out
    prepare(tmp_path / "window", data=raw, intensity="window", window=(-175, 250))
    values = [load(case.image)[load(case.label) == 1].mean() for case in all_cases(tmp_path / "window")]
    assert values == pytest.approx([(100 + 175) / 425] * 3, abs=0.01)
    with pytest.raises(UserError, match="belong together"):
        prepare(tmp_path / "none", data=raw, intensity="window")


def test_a_class_that_resampling_loses_is_refused(tmp_path, capsys):
    raw = write_decathlon(tmp_path / "raw", 3)
    for number in range(3):
        label = volumes()[1]
        label[label == 2] = 1
        label[10, 10, 3] = 2
        save(raw / f"labelsTr/case_{number}.nii.gz", label)
    with pytest.raises(UserError, match=r"leaves nothing of vein \(in all 3 cases\)"):
        prepare(tmp_path / "out", data=raw, spacing=(3, 3, 3))
    assert not (tmp_path / "out").exists()
    label[6:12, 6:12, 2:8] = 2
    save(raw / "labelsTr/case_1.nii.gz", label)
    prepare(tmp_path / "out", data=raw, spacing=(3, 3, 3))
    assert "resampling changed vein" in capsys.readouterr().out


def test_files_of_which_it_is_unclear_which_is_meant_are_refused(tmp_path):
    for number in range(3):
        image, label = volumes(seed=number)
        save(tmp_path / f"images/a{number}_0000.nii.gz", image)
        save(tmp_path / f"labels/a{number}.nii.gz", label)
        (tmp_path / f"labels/._a{number}.nii.gz").write_bytes(b"of a Mac")
    folders = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    assert [case.name for case in open_source(**folders).cases] == ["a0", "a1", "a2"]
    save(tmp_path / "images/a1.nii.gz", image)
    with pytest.raises(UserError, match="a1.nii.gz and a1_0000.nii.gz are both 'a1'"):
        open_source(**folders)
    (tmp_path / "images/a1.nii.gz").unlink()
    save(tmp_path / "labels/a2.nii", label)
    with pytest.raises(UserError, match="a2.nii and a2.nii.gz are both 'a2'"):
        open_source(**folders)
    (tmp_path / "labels/a2.nii").rename(tmp_path / "labels/a3.NII.GZ")
    with pytest.raises(UserError, match="a3.NII.GZ: its name ends in capitals, so it would be left out"):
        open_source(**folders)


def test_one_scan_whose_header_names_metres_does_not_fill_the_memory(tmp_path):
    raw, (image, label) = write_decathlon(tmp_path / "raw", 3), volumes(seed=0)
    for name, array in (("images", image), ("labels", label)):
        save(raw / f"{name}Tr/case_0.nii.gz", array, np.diag([1000.0, 1000, 1000, 1]))
    with pytest.raises(UserError, match=r"makes a scan of \(20000, 18000, 12000\) voxels; .* mend its header"):
        prepare(tmp_path / "out", data=raw)


@pytest.mark.parametrize("name", ["p\udcff", "a\nb", "\x1b[31m"])
def test_names_that_no_table_can_hold_are_told(tmp_path, name):
    for folder, array in zip(("images", "labels"), volumes(seed=0), strict=True):
        save(tmp_path / folder / f"{name}.nii.gz", array)
    with pytest.raises(UserError, match="a name that no table can hold"):
        open_source(images=tmp_path / "images", labels=tmp_path / "labels")


def test_links_that_go_round_in_a_circle_are_told(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3)
    (raw / "imagesTr/case_0.nii.gz").unlink()
    (raw / "imagesTr/case_0.nii.gz").symlink_to(raw / "imagesTr/case_0.nii.gz")
    with pytest.raises(UserError, match="case_0.nii.gz: cannot be read"):
        prepare(tmp_path / "out", data=raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, None),
        ({"labels": {"background": 0, "liver": 1, "vein": "2"}}, None),
        ({"training": None}, "no labelled case"),
        ({"training": {"a": 1}}, "a list of cases is needed"),
        ({"labels": {"background": 0, "liver": None}}, "needs a whole number"),
        ({"labels": ["liver"]}, "no class names"),
    ],
)
def test_dataset_json_as_others_write_it(tmp_path, change, message):
    raw = write_decathlon(tmp_path / "raw", 2)
    content = json.loads((raw / "dataset.json").read_text()) | change
    (raw / "dataset.json").write_bytes(json.dumps(content).encode("utf-8-sig"))
    if message:
        with pytest.raises(UserError, match=message):
            faults_of(open_source(raw))
    else:
        assert faults_of(open_source(raw)) == []


def test_patients_that_are_null_are_not_one_patient(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3, patients=[None] * 3)
    assert [case.patient for case in open_source(raw).cases] == ["case_0", "case_1", "case_2"]


def test_split_is_seeded_and_keeps_patients_together(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 12, patients=[f"p{number // 2}" for number in range(12)])
    drawn = []
    for seed in (0, 0, 1):
        prepare(tmp_path / "out", data=raw, seed=seed, overwrite=True)
        drawn.append(patients(tmp_path / "out"))
        assert not set(drawn[-1]["training"]) & set(drawn[-1]["validation"] + drawn[-1]["test"])
        assert all(drawn[-1].values())
    assert drawn[0] == drawn[1] != drawn[2]


def test_folds_share_no_test_patient_and_leave_none_out(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 14, patients=[f"p{number // 2}" for number in range(14)])
    held_out = []
    for number in (1, 2, 3):
        prepare(tmp_path / "out", data=raw, fold=f"{number}/3", overwrite=True)
        found = patients(tmp_path / "out")
        assert json.loads((tmp_path / "out/dataset.json").read_text())["fold"] == f"{number}/3"
        assert len(set(sum(found.values(), []))) == 7 and all(found.values())
        assert not set(found["test"]) & set(found["training"] + found["validation"])
        held_out += sorted(set(found["test"]))
    assert sorted(held_out) == [f"p{number}" for number in range(7)]
    for fold, message in (("0/3", "such as 1/5"), ("3", "such as 1/5"), ("4/3", "such as 1/5"), ("1/9", "9 folds")):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path / "other", data=raw, fold=fold)


def test_patient_pattern_finds_the_patient_in_the_name(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 4)
    with pytest.raises(UserError, match="is not in the case name"):
        prepare(tmp_path / "out", data=raw, patient_pattern="patient")
    prepare(tmp_path / "out", data=raw, patient_pattern=r"case_(\d)")
    assert sorted(sum(patients(tmp_path / "out").values(), [])) == ["0", "1", "2", "3"]


def test_one_patient_is_split_into_crops_only_on_request(tmp_path, capsys):
    image, label = volumes((40, 40, 20))
    save(tmp_path / "mr.nii.gz", image)
    save(tmp_path / "mr_seg.nii.gz", label)
    files = {"images": tmp_path / "mr.nii.gz", "labels": tmp_path / "mr_seg.nii.gz", "label_map": "{liver: 1, vein: 2}"}
    crops = {"roi_size": (16, 16, 16), "crops": 10, "center": "vein"}
    with pytest.raises(UserError, match=r"1 patient\(s\) cannot be split.*--split_by case with --crops"):
        prepare(tmp_path / "out", **files, **crops)
    prepare(tmp_path / "out", **files, **crops, split_by="case")
    assert "may be in several splits" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/dataset.json").read_text())["split_by"] == "case"
    cases = all_cases(tmp_path / "out")
    assert len(cases) == 10 and {case.patient for case in cases} == {"mr"}
    assert all((load(case.label) == 2).any() for case in cases)
    first = [load(case.image) for case in cases]
    prepare(tmp_path / "again", **files, **crops, split_by="case")
    assert all((a == load(b.image)).all() for a, b in zip(first, all_cases(tmp_path / "again"), strict=True))


def test_all_faults_of_the_data_are_told_at_once_and_nothing_is_written(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 5)
    save(raw / "labelsTr/case_1.nii.gz", np.full((20, 18, 12), 7, np.uint8))
    save(raw / "imagesTr/case_2.nii.gz", np.full((20, 18, 12), np.nan, np.float32))
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "out", data=raw)
    assert "2 faults" in str(error.value) and "case_1" in str(error.value) and "case_2" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_failure_in_the_middle_leaves_no_folder_and_the_old_one_whole(tmp_path, monkeypatch):
    raw = write_decathlon(tmp_path / "raw", 5)
    prepare(tmp_path / "out", data=raw)
    before = (tmp_path / "out/dataset.json").read_text()

    def fail(path, *args):
        if path.name == "case_3.nii.gz":
            raise OSError("disk full")
        save(path, *args)

    monkeypatch.setattr(case_preparation, "save_nifti", fail)
    for name in ("out", "new"):
        with pytest.raises(UserError, match="cannot be written .disk full"):
            prepare(tmp_path / name, data=raw, seed=1, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    assert (tmp_path / "out/dataset.json").read_text() == before and faults_of(open_source(tmp_path / "out")) == []


def test_a_case_that_cannot_be_scaled_is_told_and_leaves_no_folder(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 5)
    image = np.zeros((20, 18, 12), np.float32)
    image[0, 0, 0] = 9
    save(raw / "imagesTr/case_3.nii.gz", image)
    with pytest.raises(UserError, match="case_3.nii.gz: cannot be scaled.*--intensity min_max"):
        prepare(tmp_path / "out", data=raw, intensity="percentile")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    raw, written = write_decathlon(tmp_path / "raw", 7), []
    for cores in (1, 3):
        monkeypatch.setattr(processes, "usable_cores", lambda cores=cores: cores)
        out = tmp_path / f"out{cores}"
        prepare(out, data=raw, spacing=(1.3, 0.8, 1.1), crops=2, roi_size=(16, 16, 16))
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert len(written[0]) == 30 and written[0] == written[1]


def test_nothing_is_overwritten_unasked_and_the_input_never(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3)
    prepare(tmp_path / "out", data=raw)
    with pytest.raises(UserError, match="--overwrite"):
        prepare(tmp_path / "out", data=raw)
    prepare(tmp_path / "out", data=raw, overwrite=True)
    with pytest.raises(UserError, match="would replace the input"):
        prepare(raw, data=raw, overwrite=True)
    with pytest.raises(UserError, match="would replace the input"):
        prepare(tmp_path, data=raw, overwrite=True)
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="thesis.txt"):
        prepare(tmp_path / "out", data=raw, overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_size": (50, 32, 32)}, "multiples of 16"),
        ({"spacing": (1, 0, 1)}, "above 0"),
        ({"intensity": "zscore"}, "allowed are min_max, percentile"),
        ({"percentiles": (99, 1)}, "two rising numbers"),
        ({"split": (0.5, 0.5, 0.5)}, "sum 1"),
        ({"crops": 5}, "--roi_size"),
        ({"max_cases": 2}, r"2 patient\(s\) cannot be split"),
        ({"label_map": {"liver": 1, "vein": 1}}, "more than one class"),
        ({"label_map": {"classes": {"liver": 1}, "tubes": []}}, "allowed are classes, priority"),
        ({"label_map": {"classes": {"liver": 1}, "tubular": ["vein"]}}, "the classes are"),
        ({"label_map": {"classes": {"liver": 1}, "tubular": "liver"}}, r"tubular: \[vein\]"),
        ({"label_map": {"liver": "one"}}, "a whole number from 1"),
        ({"label_map": "missing.yaml"}, "cannot be read"),
        ({"images": "somewhere"}, "either --data"),
    ],
)
def test_wrong_options_are_told_before_any_work(tmp_path, options, message):
    raw = write_decathlon(tmp_path / "raw", 3)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "out", data=raw, **options)
    assert not (tmp_path / "out").exists()


def test_regions_of_nnunet_need_a_label_map(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3, labels={"background": 0, "whole": [1, 2], "vein": 2})
    with pytest.raises(UserError, match="--label_map"):
        prepare(tmp_path / "out", data=raw)
    prepare(tmp_path / "out", data=raw, label_map={"liver": 1, "vein": 2})


def test_hippocampus_gets_the_size_that_most_scans_fill(tmp_path, real_data):
    prepare(tmp_path / "out", data=real_data("hippocampus"))
    schema = load_schema(tmp_path / "out")
    assert schema.roi_size == (32, 48, 32) and schema.class_names[1:] == ("Anterior", "Posterior")
    assert [len(load_cases(tmp_path / "out", split)) for split in SPLITS] == [140, 20, 40]
    assert faults_of(open_source(tmp_path / "out")) == []


def test_liver_mr_maps_vessels_out_of_49_classes(tmp_path, real_data):
    folder = real_data("liver_mr")
    label_map = {"classes": {"liver": 5, "portal vein": 25}, "tubular": ["portal vein"]}
    files = {"images": folder / "abdomen_mr.nii.gz", "labels": folder / "abdomen_mr_seg.nii.gz"}
    crops = {"roi_size": (32, 32, 16), "crops": 10, "center": "portal vein", "split_by": "case"}
    prepare(tmp_path / "out", **files, label_map=label_map, **crops)
    assert len(all_cases(tmp_path / "out")) == 10 and faults_of(open_source(tmp_path / "out")) == []
    prepare(tmp_path / "coarse", **files, label_map=label_map, spacing=(6, 6, 6), **crops)
    assert all((load(case.label) == 2).any() for case in all_cases(tmp_path / "coarse"))


def test_further_scans_without_labels_become_training_cases(tmp_path, capsys):
    data, further = write_decathlon(tmp_path / "raw"), tmp_path / "further"
    for number, size in enumerate([(20, 18, 12), (40, 30, 20)]):
        save(further / f"scan_{number}_0000.nii.gz", volumes(size, seed=50 + number)[0])
    prepare(tmp_path / "with", data=data, unlabelled=further)
    assert "2 of the training cases have no label" in capsys.readouterr().out
    prepare(tmp_path / "without", data=data)
    schema, cases = load_schema(tmp_path / "with"), load_cases(tmp_path / "with", "training")
    assert schema == load_schema(tmp_path / "without")  # the grid is that of the labelled cases
    assert [(case.name, case.patient) for case in cases if not case.label] == [("scan_0",) * 2, ("scan_1",) * 2]
    scan = read_pair(cases[-1], schema)
    assert scan.label is None and 0 <= scan.image.min() < scan.image.max() <= 1
    for split in SPLITS:
        before = [case.name for case in load_cases(tmp_path / "without", split)]
        assert [case.name for case in load_cases(tmp_path / "with", split) if case.label] == before
    assert all(case.label for case in regime_cases(tmp_path / "with", None, "R", 0)[0])


@pytest.mark.parametrize(
    ("seed", "name", "options", "message"),
    [
        (0, "new", {}, "is the same scan as"),  # that of case_0
        (9, "{training}", {}, "is named as a labelled case; remove it from --unlabelled"),
        (9, "{held_out}_later", {"patient_pattern": "^(case_.)"}, "patient {held_out} is in the validation or test"),
    ],
)
def test_scans_of_patients_who_are_known_are_refused_among_those_without_labels(tmp_path, seed, name, options, message):
    data = write_decathlon(tmp_path / "raw")
    prepare(tmp_path / "dataset", data=data)
    known = {"training": "training", "held_out": "test"}
    known = {word: load_cases(tmp_path / "dataset", split)[0].name for word, split in known.items()}
    save(tmp_path / "further" / f"{name.format(**known)}.nii.gz", volumes(seed=seed)[0])
    with pytest.raises(UserError, match=message.format(**known)):
        prepare(tmp_path / "again", data=data, unlabelled=tmp_path / "further", **options)
    assert not (tmp_path / "again").exists()


def test_a_folder_without_scans_has_none_without_labels_either(tmp_path):
    with pytest.raises(UserError, match="--unlabelled .*empty: holds no scans"):
        prepare(tmp_path / "dataset", data=write_decathlon(tmp_path / "raw"), unlabelled=tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "--seed -1: a whole number from 0"),
        ({"seed": "a"}, "--seed 'a'"),
        ({"percentiles": (1, 99)}, "--percentiles belong to --intensity percentile"),
        ({"spacing": (float("inf"), 1, 1)}, "--spacing"),
        ({"spacing": (1e-6, 1, 1)}, r"makes a scan of \(20000000, 18, 12\) voxels; give one near"),
        ({"roi_size": (16000, 16000, 16000)}, "--roi_size .* has more than"),
    ],
)
def test_options_that_would_fail_late_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "out", data=write_decathlon(tmp_path / "raw", 3), **options)
    assert not (tmp_path / "out").exists()
