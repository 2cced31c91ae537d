"""The folder of synthetic pairs that may be shared: what is in it, when it is refused, and what its check finds."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lldm3d.data.checks import check
from lldm3d.data.dataset import load_cases
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import Metric
from lldm3d.evaluation.records import content_hash
from lldm3d.export.release import release, verify
from lldm3d.files import load_nifti, read_json, save_nifti, sha256, write_json

EVALUATION = "evaluation/lldm/drawn/seed_0/metrics.json"


def copied(work: Path, folder: Path, share: float = 0.0) -> Path:
    """What of a work directory a release reads, with a share of near copies."""
    for name in ("dataset", "pairs", "evaluation", "segment", "comparison"):
        shutil.copytree(work / name, folder / name)
    content = read_json(folder / EVALUATION)
    for row in content["rows"]:
        if row["key"] == Metric.NEAR_COPIES_SHARE:
            row["value"] = share
    write_json(folder / EVALUATION, content)
    return folder


@pytest.fixture(scope="module")
def kit(work, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    release(str(copied(work, folder / "work")), str(folder / "kit"), licence="CC-BY-4.0")
    return folder / "kit"


def test_the_pairs_are_those_that_were_judged_under_numbers_for_names(kit, work):
    pairs = work / "pairs/lldm/drawn/seed_0"
    for kind in ("image", "label"):
        truths = sorted((pairs / f"{kind}sTr").glob("*.nii.gz"))
        files = sorted((kit / f"{kind}sTr").glob("*.nii.gz"))
        assert [file.name for file in files] == [f"synthetic_000{number}.nii.gz" for number in (1, 2, 3)]
        for file, truth in zip(files, truths, strict=True):
            ours, theirs = nib.load(file), nib.load(truth)
            assert np.array_equal(ours.get_fdata(), theirs.get_fdata()) and np.array_equal(ours.affine, theirs.affine)
            assert ours.header["descrip"].item() == b"synthetic"
            assert read_json(file.with_name(file.name.replace(".nii.gz", ".json")))["synthetic"] is True


def test_pairs_that_are_not_there_are_refused_with_those_that_are(work, tmp_path):
    with pytest.raises(UserError, match="no such pairs .*; there are ddpm/drawn/seed_0, lldm/drawn/seed_0, lldm/test/"):
        release(str(work), str(tmp_path / "kit"), pairs="lldm/drawn/seed_7")


def test_it_is_a_data_set_like_any_other(kit, capsys):
    check(kit)
    assert "3 cases without faults" in capsys.readouterr().out


def test_the_data_sheet_tells_what_how_good_and_how_near_to_patients(kit):
    text = (kit / "DATASHEET.md").read_text()
    for words in (
        "3 pairs",
        "liver, vessel, tumour",
        "CC-BY-4.0",
        "Toy livers",
        "4 training",
        "FID",
        "Near copies",
        "0.0 %",
    ):
        assert words in text
    assert "None" not in text.replace("None of", "") and "look at the pictures" not in text
    assert (kit / "README.md").read_text().startswith('---\nlicense: "other"\nlicense_name: "CC-BY-4.0"\n')
    assert "CC-BY-4.0" in (kit / "LICENSE").read_text()


def test_mlcroissant_validates_and_reads_it(kit):
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    dataset = mlcroissant.Dataset(str(kit / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
    records = list(dataset.records("pairs"))
    assert [record["pairs/label"] for record in records] == [
        f"labelsTr/synthetic_000{number}.nii.gz".encode() for number in (1, 2, 3)
    ]


def swap(kit: Path, name: str, make: Callable[[Path], None]) -> None:
    """Something else in place of a file."""
    (kit / name).unlink()
    make(kit / name)


def renew(kit: Path, name: str, content: bytes) -> None:
    """Another file, with its checksum."""
    before = sha256(kit / name)
    (kit / name).write_bytes(content)
    (kit / "SHA256SUMS").write_text((kit / "SHA256SUMS").read_text().replace(before, sha256(kit / name)))


FAULTS = {
    "changed": (lambda kit: (kit / "LICENSE").write_text("mine"), "LICENSE has changed"),
    "missing": (lambda kit: (kit / "labelsTr/synthetic_0002.nii.gz").unlink(), "synthetic_0002.nii.gz is missing"),
    "added": (lambda kit: (kit / "imagesTr/patient.nii.gz").write_bytes(b""), "patient.nii.gz does not belong there"),
    "a pipe": (lambda kit: swap(kit, "LICENSE", os.mkfifo), "LICENSE is no file"),  # which would be read for ever
    "no volume": (lambda kit: renew(kit, "imagesTr/synthetic_0001.nii.gz", b"x"), "0001.nii.gz does not say that"),
    "no pairs": (lambda kit: renew(kit, "dataset.json", b"{}"), "lists no pairs"),
    "no sums": (lambda kit: (kit / "SHA256SUMS").unlink(), "holds no SHA256SUMS"),
}


def test_a_kit_is_verified_as_it_was_made(kit, capsys):
    verify(str(kit))
    assert "3 pairs, as they were released" in capsys.readouterr().out


@pytest.mark.parametrize("name", FAULTS)
def test_what_was_changed_on_the_way_is_told(kit, tmp_path, name):
    change, words = FAULTS[name]
    shutil.copytree(kit, tmp_path / "kit")
    change(tmp_path / "kit")
    with pytest.raises(UserError, match=words):
        verify(str(tmp_path / "kit"))


def draw_anew(work: Path) -> None:
    """As many pairs of the same names, of which one is another."""
    one, other = sorted((work / "pairs/lldm/drawn/seed_0/imagesTr").iterdir())[:2]
    shutil.copyfile(other, one)


def rename_dataset(work: Path) -> None:
    """The name of the data set holds that of a patient."""
    for path in (work / "dataset/dataset.json", work / "pairs/lldm/drawn/seed_0/dataset.json"):
        content = json.loads(path.read_text())
        content["training"][0]["patient"] = "Erika Muster"
        write_json(path, content | {"name": "Scans of Erika Muster", "licence": "CC0"})


def start_from_patients(work: Path) -> None:
    """The volumes hold a true slice each."""
    path = work / "pairs/lldm/drawn/seed_0/manifest.json"
    write_json(path, (json.loads(path.read_text()) if path.is_file() else {}) | {"settings": {"start": "own"}})


def take_a_patients_label(work: Path) -> None:
    """One of the label maps is that of a training case, as a folder of labels may give it."""
    pairs = work / "pairs/lldm/drawn/seed_0"
    patient, pair = (load_cases(folder, "training")[1].label for folder in (work / "dataset", pairs))
    save_nifti(Path(pair), *load_nifti(patient))
    content = read_json(work / EVALUATION)
    write_json(work / EVALUATION, content | {"judged": content_hash(load_cases(pairs, "training"))})


@pytest.mark.parametrize(
    ("change", "share", "words"),
    [
        (lambda work: None, 0.34, "34.0% of 3 pairs are near copies of training cases, at most 1% may"),
        (
            lambda work: [shutil.rmtree(work / name) for name in ("evaluation", "comparison")],
            0,
            "the copies of patients were not measured",
        ),
        (
            draw_anew,
            0,
            "metrics.json: judged other pairs than those in .*/pairs/lldm/drawn/seed_0; delete it and",
        ),
        (lambda work: None, 0, "names no licence of the training data; give --licence"),
        (rename_dataset, 0, "the name of a patient or case is in it: 'Erika Muster' in "),
        (start_from_patients, 0, "each pair began from a slice of a patient .start own."),
        (take_a_patients_label, 0, "1 of 3 label maps are a patient's as they are, such as .*, which are not released"),
    ],
    ids=["copies", "not evaluated", "judged before drawn", "no licence", "a name", "a patient's slice", "a label"],
)
def test_what_may_not_be_shared_is_refused_and_nothing_written(work, tmp_path, change, share, words):
    change(folder := copied(work, tmp_path / "work", share))
    with pytest.raises(UserError, match=words):
        release(str(folder), str(tmp_path / "kit"))
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
