"""A folder of pairs: its manifest, its data set, and several folders joined as one (`lldm3d join`)."""

from collections import Counter
from collections.abc import Sequence
from glob import glob
from itertools import product
from pathlib import Path

import nibabel as nib

from lldm3d import __version__
from lldm3d.data.dataset import load_cases, load_schema, moved
from lldm3d.data.regimes import generator_saw
from lldm3d.errors import UserError
from lldm3d.files import read_json, remove_partial, sha256, write_json
from lldm3d.methods.registry import Method
from lldm3d.pairs.sources import LabelFile

MODELS = ("*/model.pt", "*/codec.pt")  # what the trainings of a method leave in their folders


def pair_manifest(
    method: Method,
    models: Path | None,
    labels: Sequence[LabelFile] | None,
    names: list[str],
    seed: int,
    settings: dict,
    overlays: Sequence[str],
    files: Sequence[str] = MODELS,
    seen: Path | None = None,
) -> dict:
    """What the pairs depend on: method, settings, the hash of each model, and for each case its seed, label and edits.

    "saw" is what the models saw of the real patients; None where they do not say it.

    Args:
        models: folder of the method's trainings; None where it learns nothing.
        files: patterns of the models in it.
        seen: the data set of a method that learns nothing; else that of its models.
    """
    seen = seen or (data_of_models(models) if models else None)
    paths = sorted(path for pattern in files for path in models.glob(pattern)) if models else []
    cases = [{"name": name, "seed": seed} for name in names]
    if labels:
        cases = [
            case
            | {"label": Path(label.path).name, "label_sha256": sha256(label.path), "patient": label.patient}
            | ({"edits": list(label.edits)} if label.edits else {})
            for case, label in zip(cases, labels, strict=True)
        ]
    return {
        "lldm3d": __version__,
        "method": method.name,
        "seed": seed,
        "settings": settings,
        "overlays": list(overlays),
        "saw": generator_saw(seen) if seen else None,
        "checkpoints": {path.relative_to(models).as_posix(): sha256(path) for path in paths},
        "cases": cases,
    }


def data_of_models(models: Path) -> Path | None:
    """The data set that the trainings in W/methods/<method>/seed_<k> read; None where they do not say.

    It is the work directory's, or what `write_seen` left of it.
    """
    files = sorted(models.glob("*/finished.json"))
    read = [name for file in files for name in read_json(file)["inputs"] if Path(name).name == "dataset.json"]
    return (models.parents[2] / read[0]).parent if read else None


def claim(target: Path, content: dict, overwrite: bool) -> None:
    """Begin `manifest.json`, or go on with the same one; refuse a folder that holds anything else.

    Cases that an earlier call drew and this one does not name stay in it, as their files do.
    """
    path = target / "manifest.json"
    require_ours(target)
    if is_ours(target):
        before = read_json(path)
        drawn = {case["name"]: case for case in before.get("cases", [])}
        changed = sorted(key for key in content if key != "cases" and before.get(key) != content[key])
        if any(drawn.get(case["name"], case) != case for case in content["cases"]):  # more of them are no others
            changed.append("labels")
        if changed and not overwrite and any(target.glob("*Tr/*.nii.gz")):  # else that call was refused or killed
            raise UserError(
                f"{target}: holds pairs that differ from these in {', '.join(changed)}; "
                "choose another --output_dir or pass --overwrite"
            )
        if changed:
            (target / "dataset.json").unlink(missing_ok=True)
            for case, folder in product(before["cases"], ("imagesTr", "labelsTr")):
                (target / folder / f"{case['name']}.nii.gz").unlink(missing_ok=True)
            for name in ("cost.json", "manifest.json"):  # the manifest last: what has none is not ours to clear
                (target / name).unlink(missing_ok=True)
        else:
            named = {case["name"] for case in content["cases"]}
            content = content | {"cases": content["cases"] + [drawn[name] for name in drawn if name not in named]}
    write_json(path, content)


def require_ours(target: Path) -> None:
    """Raise UserError where a folder holds what `lldm3d generate` did not make."""
    if target.exists() and not is_ours(target) and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: holds something else than `lldm3d generate` made; choose another --output_dir")


def is_ours(folder: Path) -> bool:
    """Whether a folder has the manifest of `lldm3d generate`: other programs have files of that name too.

    Its cases are named by files of the folder, and a name with a path in it, of which others could be deleted, by none.
    """
    path = folder / "manifest.json"
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not {"lldm3d", "method"} <= content.keys():
        return False
    if not isinstance(content.get("cases"), list):
        return False
    names = [case.get("name") if isinstance(case, dict) else None for case in content["cases"]]
    return all(isinstance(name, str) and Path(name).name == name for name in names)


def manifest_of(folder: Path) -> dict:
    """The manifest of a folder of pairs; of another program's, which has none, what stands for it."""
    if is_ours(folder):
        return read_json(folder / "manifest.json")
    return {"lldm3d": __version__, "method": "of another program", "cases": []}


def manifest_rows(manifest: dict, names: Sequence[str], key: str, values: Sequence[float]) -> list[dict]:
    """The rows of a manifest for the pairs of these names, in their order, each with a further value."""
    known = {case["name"]: case for case in manifest["cases"]}
    return [{"name": name, **known.get(name, {}), key: value} for name, value in zip(names, values, strict=True)]


def write_dataset_json(
    target: Path, dataset_dir: Path, about: str, names: list[str], patients: list[str], kind: str = "real"
) -> None:
    """Write `dataset.json` for images or pairs that were made, with the schema of the real data set.

    Args:
        about: what the cases are.
        kind: in the name of the data set, such as synthetic.
    """
    schema = load_schema(dataset_dir)
    folders = {"image": "imagesTr", **({"label": "labelsTr"} if (target / "labelsTr").is_dir() else {})}
    cases = [
        {**{key: f"./{folder}/{name}.nii.gz" for key, folder in folders.items()}, "patient": patient}
        for name, patient in zip(names, patients, strict=True)
    ]
    missing = [case[key] for case in cases for key in folders if not (target / case[key]).is_file()]
    if missing:
        raise UserError(f"{target}: lacks {missing[:3]} after generation; see {target / 'log.txt'}")
    for folder in folders.values():
        remove_partial(target / folder)
    content = read_json(dataset_dir / "dataset.json") | {
        "name": f"{schema.name} ({kind})",
        "description": about,
        "synthetic": kind == "synthetic",
        "numTraining": len(cases),
        "numTest": 0,
        "training": cases,
        "validation": [],
        "test": [],
    }
    sizes = {nib.load(target / case["image"]).shape for case in cases}
    if len(sizes) == 1:  # given labels may be larger than the data that were learnt
        content["roi_size"] = list(sizes.pop())
    write_json(target / "dataset.json", content)


def join(parts: str, output_dir: str, overwrite: bool = False) -> None:
    """Write `dataset.json` and `manifest.json` of all pairs in some folders, which stay where they are.

    Args:
        parts: pattern of the folders, such as "pairs/part_*".
        output_dir: folder of the two files; everything that reads a generated data set reads it too.
        overwrite: replace them.

    Raises:
        UserError: where no folder matches, one is unfinished or was drawn otherwise, or two hold the same case.
    """
    target = Path(output_dir).resolve()
    require_free(target, overwrite)
    folders = [Path(name).resolve() for name in sorted(glob(parts)) if Path(name).resolve() != target]
    join_folders(folders, target, parts)


def require_free(target: Path, overwrite: bool) -> None:
    """Raise UserError where what describes a folder of pairs was not written by us, or is not to be replaced."""
    ours = is_ours(target)
    if found := [name for name in ("dataset.json", "manifest.json", "cost.json") if (target / name).exists()]:
        if not ours or (found[0] == "dataset.json" and not overwrite):
            remedy = " or pass --overwrite" if ours else ", as no pairs were joined or drawn there"
            raise UserError(f"{target}: holds a {found[0]} already; choose another --output_dir{remedy}")


def join_folders(folders: list[Path], target: Path, parts: str) -> None:
    """Write `dataset.json`, `manifest.json` and, where all have one, `cost.json` of all pairs of the folders.

    Args:
        parts: what errors call the folders.
    """
    manifests = fitting_manifests(folders, parts)
    contents = [read_json(folder / "dataset.json") for folder in folders]
    cases = [
        moved(case, folder, target)
        for folder, content in zip(folders, contents, strict=True)
        for case in content["training"]
    ]
    if twice := [name for name, count in Counter(Path(case["image"]).name for case in cases).items() if count > 1]:
        raise UserError(f"{parts}: several folders hold the cases {twice[:3]}; draw each with a --first of its own")
    write_json(
        target / "manifest.json",
        manifests[0] | {"cases": [case for item in manifests for case in item.get("cases", [])]},
    )
    costs = [read_json(folder / "cost.json") for folder in folders if (folder / "cost.json").is_file()]
    if len(costs) == len(folders):
        total = {key: sum(cost[key] for cost in costs) for key in ("volumes", "seconds")}
        write_json(target / "cost.json", costs[0] | total)
    write_json(target / "dataset.json", contents[0] | {"numTraining": len(cases), "training": cases})


def fitting_manifests(folders: list[Path], parts: str) -> list[dict]:
    """The manifests of all folders. Raises UserError for one that is unfinished, or was drawn with other settings."""
    if not folders:
        raise UserError(f"--parts {parts!r}: no such folder; give one pattern for all, such as 'work/part_*'")
    if unfinished := [folder.name for folder in folders if not (folder / "dataset.json").is_file()]:
        raise UserError(f"{parts}: {unfinished[:3]} are not finished; run `lldm3d generate` again for them")
    if others := [folder for folder in folders if not is_ours(folder)]:
        raise UserError(f"{others[0]}: has no manifest.json of `lldm3d generate`; join only what it drew")
    found = [read_json(folder / "manifest.json") for folder in folders]
    for folder in folders:
        load_cases(folder, "training")  # whose errors say what is gone
    for folder, manifest in zip(folders, found, strict=True):
        keys = {**found[0], **manifest}.keys() - {"cases"}
        if changed := [key for key in keys if found[0].get(key) != manifest.get(key)]:
            raise UserError(f"{folder}: was drawn with another {', '.join(sorted(changed))} than {folders[0]}")
    return found
