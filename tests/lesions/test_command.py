"""`lldm3d edit`, and edits as a source of labels and a method of a run."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.in_process import bundles_run_here, do_stages, write_run
from tests.lesions.conftest import write_lesions

from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json
from lldm3d.lesions.editor import Edit, open_editor
from lldm3d.lesions.pool import Scans
from lldm3d.lesions.request import editor_of
from lldm3d.lesions.textures import with_rim
from lldm3d.methods.registry import load_method
from lldm3d.pairs.editing import edit
from lldm3d.pairs.generate import generate
from lldm3d.pairs.painters import open_texture
from lldm3d.pipeline.run import run

TUMOUR = 3


def voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_new_lesions_are_written_as_pairs_with_a_picture(lesion_dataset, tmp_path):
    out = tmp_path / "out"
    edit("case_01", str(out), data=str(lesion_dataset), add="tumour", long_axis=9, n=2, seed=1)
    pairs, case = load_cases(out, "training"), load_cases(lesion_dataset, "training")[1]
    manifest = read_json(out / "manifest.json")
    assert len(pairs) == 2 and {pair.patient for pair in pairs} == {"case_01"} and (out / "edits.png").stat().st_size
    for pair, row in zip(pairs, manifest["cases"], strict=True):
        new = voxels(pair.label) != voxels(case.label)
        assert 5 < new.sum() < 200 and (voxels(pair.label)[new] == TUMOUR).all()
        assert abs(row["edits"][0]["long_axis"] - 9) < 3
        again = open_editor(lesion_dataset).scan([Edit.of(item) for item in row["edits"]])
        np.testing.assert_array_equal(again.image, voxels(pair.image))
    assert (voxels(pairs[0].label) != voxels(pairs[1].label)).any()
    edit(pairs[0].name, str(tmp_path / "more"), data=str(out), remove="tumour", n=1)
    assert not (voxels(tmp_path / f"more/labelsTr/{pairs[0].name}_edit00.nii.gz") == TUMOUR).any()


def test_a_lesion_lies_where_it_is_wanted_and_is_removed_and_grown(lesion_dataset, tmp_path):
    case = load_cases(lesion_dataset, "training")[0]
    label, affine = voxels(case.label), nib.load(case.label).affine
    centre = np.argwhere(label == 1).mean(0) + (0, 4, 0)
    place = ",".join(f"{length:.1f}" for length in (affine @ [*centre, 1])[:3])
    given = {"data": str(lesion_dataset)}
    edit("case_00", str(tmp_path / "new"), **given, add="tumour", long_axis=7, place=place, source="ellipsoids")
    found = voxels(tmp_path / "new/labelsTr/case_00_edit00.nii.gz")
    assert np.abs(np.argwhere(found != label).mean(0) - centre).max() < 2
    edit("case_00", str(tmp_path / "gone"), **given, remove="tumour")
    assert not (voxels(tmp_path / "gone/labelsTr/case_00_edit00.nii.gz") == TUMOUR).any()
    for factor, low, high in ((1.3, 1.5, 3), (0.6, 0.1, 0.6)):
        edit("case_00", str(tmp_path / "size"), **given, grow=factor, overwrite=True)
        found = voxels(tmp_path / "size/labelsTr/case_00_edit00.nii.gz")
        assert low < (found == TUMOUR).sum() / (label == TUMOUR).sum() < high
    edit("case_00", str(tmp_path / "wide"), **given, calibre=1.5)
    found = voxels(tmp_path / "wide/labelsTr/case_00_edit00.nii.gz")
    assert (found == 2).sum() > 1.3 * (label == 2).sum() and not (tmp_path / "wide/imagesTr").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"case": "case_9", "add": "tumour"}, "no labelled case 'case_9'"),
        ({"add": "tumor"}, "has no class 'tumor'; did you mean tumour"),
        ({"add": "tumour", "long_axis": 80}, r"--long_axis 80: is longer than the organ \(5. mm\)"),
        ({"add": "tumour", "long_axis": 0.5}, "is shorter than a voxel"),
        ({"add": "tumour", "long_axis": 45}, "no room for a lesion of .* in liver, vein .*the widest ball that fits"),
        ({"add": "tumour", "long_axis": 9, "place": "-31,-31,-28"}, "that is outside the organ"),
        ({"add": "tumour", "place": "900,0,0"}, "lies outside the scan; the organ lies within"),
        ({"add": "tumour", "place": "here"}, "give auto, or x,y,z in mm"),
        ({"add": "tumour", "source": "real_shape"}, "did you mean real_shapes"),
        ({"add": "tumour", "remove": "tumour"}, "give one of --add, --remove, --grow, --calibre, got --add, --remove"),
        ({}, "got none"),
        ({"grow": 1.5, "long_axis": 3}, "--long_axis changes nothing with --grow; leave it out"),
        ({"remove": "tumour", "source": "ellipsoids"}, "--source changes nothing with --remove"),
        ({"remove": "tumour", "of": "vein"}, "--of changes nothing with --remove"),
        ({"calibre": 1.3, "organ": ["liver"]}, "--organ changes nothing with --calibre"),
        ({"calibre": 1.3, "seed": 1}, "--seed changes nothing with --calibre"),
        ({"add": "background"}, "has no class 'background'; it has liver"),
        ({"grow": 1.01}, r"\([0-9]+ voxels\) would have [0-9]+ by the factor 1.01; choose one farther from 1"),
        ({"grow": 4}, "cannot grow to .* it would leave the"),
        ({"remove": "tumour", "which": 2}, "--which 2: case_00 has 1 of tumour"),
        ({"add": "tumour", "which": 1}, "--which changes nothing with --add"),
        ({"grow": -1}, "a factor from 0.1 to 10"),
        ({"calibre": 1.01}, "changes no voxel of vein"),
        ({"calibre": 1.3, "of": "tumour"}, "--of tumour: the data set says that this is a lesion, no vessel"),
        ({"add": "vein"}, "--add vein: the data set says that this is a vessel, no lesion"),
        ({"calibre": 2, "of": "veins"}, "no such class; did you mean vein"),
        ({"remove": "vein", "organ": ["liver"], "workdir": "x"}, "give either --workdir"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(lesion_dataset, tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        edit(**{"case": "case_00", "output_dir": str(tmp_path / "out"), "data": str(lesion_dataset)} | asked)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def work(lesion_dataset, tmp_path_factory) -> Path:
    """A work directory in which copy-paste has made its pairs for both sources of masks, and LeFusion for one."""
    work = tmp_path_factory.mktemp("edits")
    shutil.copytree(lesion_dataset, work / "dataset")
    sources = ["ellipsoids", "real_shapes"]
    settings = {"n": 5, "long_axis": "uniform", "lesion": "tumour"}
    write_run(work, ["copy_paste", "lefusion"], sources, methods=settings)
    for source in sources:
        do_stages(work, f"labels/{source}/seed_0", f"pairs/copy_paste/{source}/seed_0")
    do_stages(work, "methods/lefusion/seed_0/texture", "pairs/lefusion/ellipsoids/seed_0")
    return work


@pytest.mark.parametrize("source", ["ellipsoids", "real_shapes"])
def test_pairs_of_a_run_are_training_scans_with_new_lesions(work, source):
    folder = work / f"pairs/copy_paste/{source}/seed_0"
    pairs, manifest = load_cases(folder, "training"), read_json(folder / "manifest.json")
    real = {case.name: case for case in load_cases(work / "dataset", "training")}
    assert len(pairs) == 5 and manifest["method"] == "copy_paste" and not manifest["checkpoints"]
    assert manifest["saw"]["labelled_patients"] == 4 and read_json(folder / "cost.json")["volumes"] == 5
    open_editor.cache_clear()
    for pair, case in zip(pairs, manifest["cases"], strict=True):
        rows = [Edit.of(row) for row in case["edits"]]
        scan = real[rows[0].scan]
        assert pair.patient == scan.patient and {row.donor["scan"] for row in rows} <= real.keys()
        assert (voxels(pair.label) != voxels(scan.label)).any()
        again = open_editor(work / "dataset", rows[0].lesion, rows[0].organ).scan(rows)
        np.testing.assert_array_equal(again.image, voxels(pair.image))
        np.testing.assert_array_equal(again.label, voxels(pair.label))


def test_a_study_takes_them_as_any_pairs(work):
    folder = work / "pairs/copy_paste/ellipsoids/seed_0"
    assert [len(cases) for cases in regime_cases(work / "dataset", folder, "R+S", 0)] == [8]
    assert [len(cases) for cases in regime_cases(work / "dataset", folder, "0.5R+S", 0)] == [6]
    run(str(work), dry_run=True, until="study")


def test_the_command_makes_the_pairs_of_the_stage_again(work, tmp_path):
    generate(str(work), str(tmp_path / "again"), "copy_paste", n=5)
    first, again = (
        {path.name: voxels(path) for path in (folder / "imagesTr").iterdir()}
        for folder in (work / "pairs/copy_paste/ellipsoids/seed_0", tmp_path / "again")
    )
    assert first.keys() == again.keys()
    for name, image in first.items():
        np.testing.assert_array_equal(image, again[name])
    for options, message in (
        ({"source": "training"}, "copy_paste edits real scans; give --source ellipsoids, real_shapes"),
        ({"label": str(next((work / "dataset/labelsTr").iterdir()))}, "--label changes nothing"),
    ):
        with pytest.raises(UserError, match=message):
            generate(str(work), str(tmp_path / "other"), "copy_paste", **options)


def test_a_trained_method_takes_the_same_masks_and_changes_nothing_else(work, tmp_path):
    ours, theirs = (work / f"pairs/{name}/ellipsoids/seed_0" for name in ("lefusion", "copy_paste"))
    manifest, real = read_json(ours / "manifest.json"), {c.name: c for c in load_cases(work / "dataset", "training")}
    rows = [[case["edits"] for case in read_json(folder / "manifest.json")["cases"]] for folder in (ours, theirs)]
    assert rows[0] == rows[1] and list(manifest["checkpoints"]) == ["texture/model.pt"]
    for pair, case in zip(load_cases(ours, "training"), manifest["cases"], strict=True):
        image, before = voxels(pair.image), voxels(real[case["edits"][0]["scan"]].image)
        new = voxels(pair.label) != voxels(real[case["edits"][0]["scan"]].label)
        np.testing.assert_array_equal(image[~new], before[~new])
        assert (image[new] != before[new]).any() and 0 <= image.min() <= image.max() <= 1
        np.testing.assert_array_equal(voxels(pair.label), voxels(theirs / f"labelsTr/{pair.name}.nii.gz"))
    settings = manifest["settings"]
    with bundles_run_here():
        generate(str(work), str(tmp_path / "again"), "lefusion", n=5, **settings)
    for pair in load_cases(ours, "training"):
        np.testing.assert_array_equal(voxels(tmp_path / f"again/imagesTr/{pair.name}.nii.gz"), voxels(pair.image))


def test_a_trained_method_paints_one_lesion_where_it_is_wanted_and_nothing_else(work, tmp_path):
    case, given = load_cases(work / "dataset", "test")[0], {"add": "tumour", "long_axis": 9, "n": 2, "seed": 3}
    for texture in ("copy_paste", "lefusion"):
        edit(case.name, str(tmp_path / texture), workdir=str(work), texture=texture, **given)
    pasted, drawn = (read_json(tmp_path / f"{texture}/manifest.json") for texture in ("copy_paste", "lefusion"))
    rows = [[case["edits"] for case in manifest["cases"]] for manifest in (pasted, drawn)]
    assert rows[0] == rows[1], "the same lesions by any method"
    assert drawn["method"] == "lefusion" and list(drawn["checkpoints"]) == ["texture/model.pt"]
    assert drawn["settings"]["num_inference_steps"] == 2, "as the run draws"
    before, texture = voxels(case.image), open_texture("lefusion", str(work), "tumour", load_schema(work / "dataset"))
    editor = editor_of(Scans(work / "dataset", SPLITS), work / "dataset", "tumour", None)
    for number, pair in enumerate(load_cases(tmp_path / "lefusion", "training")):
        image, new = voxels(pair.image), voxels(pair.label) != voxels(case.label)
        np.testing.assert_array_equal(image.view(np.int32)[~new], before.view(np.int32)[~new])
        assert (image[new] != voxels(tmp_path / f"copy_paste/imagesTr/{pair.name}.nii.gz")[new]).any()
        again = texture.scan(editor, [Edit.of(row) for row in rows[1][number]], drawn["seed"], number)
        np.testing.assert_array_equal(again.image, image)
    assert (tmp_path / "lefusion/edits.png").stat().st_size


def test_edit_and_generate_paint_the_same_for_the_same_row(work):
    folder = work / "pairs/lefusion/ellipsoids/seed_0"
    manifest, schema = read_json(folder / "manifest.json"), load_schema(work / "dataset")
    texture = open_texture("lefusion", str(work), "tumour", schema)
    for number, case in enumerate(manifest["cases"][:2]):
        scan = texture.scan(open_editor(work / "dataset"), [Edit.of(row) for row in case["edits"]], 0, number)
        np.testing.assert_array_equal(scan.image, voxels(folder / f"imagesTr/{case['name']}.nii.gz"))


def test_models_of_another_work_directory_paint_its_lesions(work, tmp_path):
    (tmp_path / "guests").mkdir()
    write_lesions(tmp_path / "guests", "guest")
    given = {"data": str(tmp_path / "guests"), "lesions_from": str(work), "add": "tumour", "texture": "lefusion"}
    edit("guest_00", str(tmp_path / "out"), **given)
    manifest, case = read_json(tmp_path / "out/manifest.json"), load_cases(tmp_path / "guests", "training")[0]
    assert list(manifest["checkpoints"]) == ["texture/model.pt"]
    assert manifest["settings"]["lesions_from"] == str(work / "dataset")
    assert manifest["cases"][0]["edits"][0]["donor"]["scan"].startswith("case_")
    (pair,) = load_cases(tmp_path / "out", "training")
    new = voxels(pair.label) != voxels(case.label)
    np.testing.assert_array_equal(voxels(pair.image)[~new], voxels(case.image)[~new])
    assert (voxels(pair.image)[new] != voxels(case.image)[new]).any()


def test_models_are_refused_for_scans_of_another_spacing(work, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.lesions.conftest.SPACING", (1.0, 1.0, 1.5))
    (tmp_path / "guests").mkdir()
    write_lesions(tmp_path / "guests", "guest")
    given = {"data": str(tmp_path / "guests"), "lesions_from": str(work), "add": "tumour", "texture": "lefusion"}
    with pytest.raises(UserError, match="learnt voxels of 2,2,3 mm, and the scan's have 1,1,1.5; prepare it with"):
        edit("guest_00", str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("key", "other"), [("intensity", "window"), ("orientation", "stored")])
def test_models_are_refused_for_scans_that_were_prepared_otherwise(key, other, work, tmp_path):
    (tmp_path / "guests").mkdir()
    write_lesions(tmp_path / "guests", "guest")
    path, learnt = tmp_path / "guests/dataset.json", load_schema(work / "dataset")
    write_json(path, read_json(path) | {key: other})
    given = {"data": str(tmp_path / "guests"), "lesions_from": str(work), "add": "tumour", "texture": "lefusion"}
    with pytest.raises(UserError, match=f"learnt scans of --{key} {getattr(learnt, key)}, and .* with {other};"):
        edit("guest_00", str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"texture": "lefusoin"}, "--texture 'lefusoin' is no method; did you mean lefusion"),
        ({"texture": "ddpm"}, "--texture 'ddpm' draws no lesions into scans; .*are .*copy_paste, difftumor, lefusion"),
        (
            {"texture": "haar_inpaint"},
            "holds no trained haar_inpaint; train it with `lldm3d run --workdir .* --methods",
        ),
        ({"texture": "lefusion", "add": None, "grow": 1.2}, "--texture changes nothing with --grow"),
        (
            {"texture": "lefusion", "add": "vein", "organ": ["liver"]},
            "--texture lefusion: .* learnt tumour, not vein; paint it by",
        ),
        ({"texture": "lefusion", "data": "it", "workdir": None}, "--texture lefusion: give --workdir"),
        ({"texture": "difftumor"}, "late/model.pt: is not a readable checkpoint|early/model.pt: no such checkpoint"),
    ],
)
def test_a_texture_that_cannot_be_painted_is_refused_and_nothing_is_written(work, tmp_path, asked, message):
    broken = work / "methods/difftumor/seed_0/late/model.pt"  # of a copy that was cut short
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"PK")
    asked = {"case": "case_00", "add": "tumour", "workdir": str(work)} | asked
    asked |= {"data": str(work / "dataset")} if asked.get("data") else {}
    with pytest.raises(UserError, match=message):
        edit(output_dir=str(tmp_path / "out"), **asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_drawn_shapes_are_painted_by_each_method_that_learns_textures(lesion_dataset, tmp_path):
    shutil.copytree(lesion_dataset, tmp_path / "dataset")
    names = ["lngen", "difftumor", "haar_inpaint"]
    write_run(tmp_path, names, ["lngen"], methods={"n": 3, "lesion": "tumour"})
    for name in names:
        do_stages(tmp_path, *(f"methods/{name}/seed_0/{training}" for training in load_method(name).trainings))
    do_stages(tmp_path, "labels/lngen/seed_0")
    for name in names:
        do_stages(tmp_path, f"pairs/{name}/lngen/seed_0")
        folder = tmp_path / f"pairs/{name}/lngen/seed_0"
        cases = read_json(folder / "manifest.json")["cases"]
        assert all("packed" in row["shape"] for case in cases for row in case["edits"])
        for pair, case in zip(load_cases(folder, "training"), cases, strict=True):
            real = open_editor(lesion_dataset).own.scans.read(case["edits"][0]["scan"])
            new = voxels(pair.label) != real.label
            np.testing.assert_array_equal(voxels(pair.image)[~with_rim(new)], real.image[~with_rim(new)])
            assert (voxels(pair.image)[new] != real.image[new]).any()
        one = {"add": "tumour", "source": "lngen", "long_axis": 12, "texture": name}
        edit("case_00", str(tmp_path / f"one_{name}"), workdir=str(tmp_path), **one)
        image, label = (voxels(tmp_path / f"one_{name}/{kind}sTr/case_00_edit00.nii.gz") for kind in ("image", "label"))
        real = open_editor(lesion_dataset).own.scans.read("case_00")
        rim = with_rim(label != real.label)
        np.testing.assert_array_equal(image[~rim], real.image[~rim])


def test_data_without_lesions_are_refused_by_name(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    write_run(tmp_path, ["copy_paste"], ["ellipsoids"])
    with pytest.raises(UserError, match="says of no class that it is a lesion; name one: lesion, of liver, portal"):
        do_stages(tmp_path, "labels/ellipsoids/seed_0")


def test_edits_are_a_source_for_methods_that_draw_whole_images_too():
    assert load_method("copy_paste").sources == ("ellipsoids", "real_shapes", "lngen")
    assert {"ellipsoids", "real_shapes"} <= set(load_method("cond_ldm").sources)


def test_a_run_of_few_labels_edits_these_patients_with_their_lesions_alone(lesion_dataset, tmp_path):
    shutil.copytree(lesion_dataset, tmp_path / "dataset")
    write_run(
        tmp_path, ["copy_paste"], ["real_shapes"], methods={"n": 3, "label_fraction": 0.5, "long_axis": "uniform"}
    )
    do_stages(tmp_path, "seen/seed_0", "labels/real_shapes/seed_0", "pairs/copy_paste/real_shapes/seed_0")
    seen = {case.name for case in load_cases(tmp_path / "seen/seed_0", "training") if case.label}
    generate(str(tmp_path), str(tmp_path / "more"), "copy_paste", source="real_shapes", n=4, seed=1)
    for folder in (tmp_path / "pairs/copy_paste/real_shapes/seed_0", tmp_path / "more"):
        manifest = read_json(folder / "manifest.json")
        rows = [row for case in manifest["cases"] for row in case["edits"]]
        assert {row["scan"] for row in rows} | {row["donor"]["scan"] for row in rows} <= seen and len(seen) == 2
        assert manifest["saw"]["label_fraction"] == 0.5
