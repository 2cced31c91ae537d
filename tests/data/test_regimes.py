"""Which cases a regime takes."""

import json
import shutil

import pytest

from lldm3d.data.dataset import load_cases
from lldm3d.data.regimes import Phase, Regime, parse_regime, regime_cases, regime_of_folder
from lldm3d.errors import UserError

from ..conftest import write_dataset


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twenty real training cases and forty synthetic pairs."""
    real, synthetic = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("synthetic")
    write_dataset(real, {"training": 20, "validation": 1, "test": 1})
    write_dataset(synthetic, {"training": 40, "validation": 0, "test": 0}, prefix="synthetic")
    return real, synthetic


def patients(folders, regime: str, seed: int = 0) -> list[str]:
    """The patients of a regime's last training."""
    return [case.patient for case in regime_cases(*folders, regime, seed)[-1]]


REGIMES = [
    ("R", [(1, 0)], None),
    ("S", [(0, 1)], "R"),
    ("R+S", [(1, 1)], "R"),
    ("R+0.5S", [(1, 0.5)], "R"),
    ("0.1R", [(0.1, 0)], None),
    ("0.25R+2S", [(0.25, 2)], "0.25R"),
    ("S>R", [(0, 1), (1, 0)], "R"),
    ("2S>R", [(0, 2), (1, 0)], "R"),
    ("3S", [(0, 3)], "R"),
    ("0.5S>0.1R", [(0, 0.5), (0.1, 0)], "0.1R"),
    ("4xR+4S", [(1, 4, 4)], "R"),
    ("10x0.1R+S", [(0.1, 1, 10)], "0.1R"),
]


@pytest.mark.parametrize(("name", "phases", "reference"), REGIMES)
def test_a_name_says_the_share_of_real_patients_and_the_ratio_of_pairs(name, phases, reference):
    regime = parse_regime(name)
    assert regime == Regime(tuple(Phase(*phase) for phase in phases))
    assert (regime.name, regime.reference) == (name, reference)


@pytest.mark.parametrize("name", [name for name, *_ in REGIMES])
def test_a_folder_bears_no_sign_that_a_shell_takes_and_leads_back_to_its_regime(name):
    folder = parse_regime(name).folder
    assert regime_of_folder(folder).name == name and ">" not in folder
    assert parse_regime("S>0.1R").folder == "S_then_0.1R"


def test_pairs_beside_all_real_cases_answer_whether_they_help():
    assert [name for name, *_ in REGIMES if parse_regime(name).beside_all] == ["R+S", "R+0.5S", "4xR+4S"]


REFUSED = ["", "2R", "0R", "R+0S", "1R", "0.10R", "R+1S", "S+R", "r", ".5R", "0S", "1S", "R/S"]
REFUSED += ["2.5R+S", "4R+4S", "1xR+S", "04xR+S", "1000xR+S", "1000000S", "4xR", "4xS", "4xR+0S", "4xR>S"]
REFUSED += ["R>S", "S>S", "S>", "1S>R", "0S>R", "S>2R", "S>R+S", "S>R>R"]


@pytest.mark.parametrize("name", REFUSED)
def test_other_names_and_second_spellings_are_refused(name):
    with pytest.raises(UserError, match="regime"):
        parse_regime(name)


COUNTS = [("R", [(20, 0)]), ("S", [(0, 20)]), ("R+S", [(20, 20)]), ("R+2S", [(20, 40)]), ("0.1R", [(2, 0)])]
COUNTS += [("2xR+2S", [(20, 40)])]
COUNTS += [("0.25R+0.5S", [(5, 10)]), ("S>R", [(0, 20), (20, 0)]), ("2S>0.1R", [(0, 40), (2, 0)]), ("2S", [(0, 40)])]


@pytest.mark.parametrize(("regime", "counts"), COUNTS)
def test_numbers_of_cases(folders, regime, counts):
    for cases, (real, synthetic) in zip(regime_cases(*folders, regime, 0), counts, strict=True):
        found = [case.patient for case in cases]
        assert len(set(found)) == len(found) == real + synthetic
        assert sum(name.startswith("synthetic") for name in found) == synthetic


def test_two_trainings_learn_from_the_cases_that_one_would(folders):
    first, second = ([case.patient for case in cases] for cases in regime_cases(*folders, "S>0.25R", 1))
    assert first == patients(folders, "S", seed=1) and second == patients(folders, "0.25R", seed=1)


def test_real_cases_say_how_often_they_are_seen_beside_pairs(folders):
    """Half of what a network of 2xR+2S sees is real, for twice as many pairs."""
    (cases,) = regime_cases(*folders, "2xR+2S", 0)
    assert {case.as_dict().get("times") for case in cases if case.patient.startswith("synthetic")} == {None}
    assert sum(case.times for case in cases if not case.patient.startswith("synthetic")) == 40


def test_shares_are_nested_and_the_same_with_and_without_synthetic_pairs(folders):
    assert set(patients(folders, "0.1R")) < set(patients(folders, "0.25R")) < set(patients(folders, "R"))
    assert set(patients(folders, "R+0.5S")) < set(patients(folders, "R+S")) < set(patients(folders, "R+2S"))
    assert patients(folders, "0.1R+S")[:2] == patients(folders, "0.1R")
    assert patients(folders, "0.1R") != patients(folders, "0.1R", seed=1)
    assert patients(folders, "0.1R+S", seed=3) == patients(folders, "0.1R+S", seed=3)


def test_a_share_is_of_patients_not_of_cases(folders, tmp_path):
    """With two cases of each patient a tenth is one patient with both."""
    real = tmp_path / "real"
    shutil.copytree(folders[0], real)
    content = json.loads((real / "dataset.json").read_text())
    for number, entry in enumerate(content["training"]):
        entry["patient"] = f"p{number // 2}"
    (real / "dataset.json").write_text(json.dumps(content))
    assert len(patients((real, None), "0.1R")) == 2 and len(set(patients((real, None), "0.1R"))) == 1


def test_no_case_of_validation_or_test_is_ever_taken(folders):
    held_out = {case.image for split in ("validation", "test") for case in load_cases(folders[0], split)}
    for regime in ("R+2S", "S>R"):
        assert not held_out & {case.image for cases in regime_cases(*folders, regime, 0) for case in cases}


def test_too_few_pairs_are_told_with_the_number_that_is_needed(folders):
    with pytest.raises(UserError, match="holds 40 pairs, but the regime R\\+3S takes 60 for the 20 real"):
        regime_cases(*folders, "R+3S", 0)
    with pytest.raises(UserError, match="needs synthetic pairs"):
        regime_cases(folders[0], None, "R+S", 0)
    with pytest.raises(UserError, match=r"R\+0.01S takes no pair for 20 real cases; take a larger ratio"):
        regime_cases(*folders, "R+0.01S", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(spacing=[1, 1, 1]), "spacing .* differ"),
        (lambda content: content["labels"].update({"2": "artery"}), "class_names .* differ"),
        (lambda content: content["training"][0].update(patient="case_21"), "show the patients .'case_21'"),
    ],
)
def test_pairs_that_do_not_fit_or_show_a_held_out_patient_are_refused(folders, tmp_path, change, message):
    shutil.copytree(folders[1], tmp_path / "synthetic")
    content = json.loads((tmp_path / "synthetic" / "dataset.json").read_text())
    content.update(tubular=[], inside={})
    change(content)
    (tmp_path / "synthetic" / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        regime_cases(folders[0], tmp_path / "synthetic", "R+S", 0)


def test_pairs_may_show_held_out_patients_where_the_data_are_split_by_case(folders, tmp_path):
    real, made = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    for folder, change in ((real, {"split_by": "case"}), (made, {})):
        content = json.loads((folder / "dataset.json").read_text()) | change
        content["training"][0]["patient"] = "case_21"
        (folder / "dataset.json").write_text(json.dumps(content))
    (phase,) = regime_cases(real, made, "R+S", 0)
    assert sum(case.patient == "case_21" for case in phase) == 2


def test_a_data_set_of_real_scans_is_no_folder_of_pairs(tiny_dataset):
    with pytest.raises(UserError, match="is a data set with test cases, no folder of pairs"):
        regime_cases(tiny_dataset, tiny_dataset, "S", seed=0)
