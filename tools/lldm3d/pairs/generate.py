"""`lldm3d generate` and `lldm3d join`: synthetic pairs from a work directory."""

import os
import shutil
import subprocess
from collections import Counter
from glob import glob
from pathlib import Path

import yaml

from lldm3d import __version__
from lldm3d.bundle import bundle_command, bundle_path
from lldm3d.data.dataset import load_schema
from lldm3d.data.sources import stem
from lldm3d.errors import UserError
from lldm3d.files import read_json, sha256, whole, write_json
from lldm3d.pairs.cases import drawn_name

CHECKPOINTS = {
    "image_codec_path": "autoencoder_image/codec.pt",
    "label_codec_path": "autoencoder_label/codec.pt",
    "label_ldm_path": "label_ldm/model.pt",
    "image_ldm_path": "image_ldm/model.pt",
    "ckpt_path": "controlnet/model.pt",
}
MULTI_GPU = "multi_gpu_inference.yaml"


def generate(
    workdir: str,
    output_dir: str,
    n: int = 1,
    label: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    num_inference_steps: int = 20,
    solver: str = "euler",
    time_shift: float = 1.0,
    guidance_scale: float = 1.0,
    memory_gb: float | None = None,
    overlays: tuple[str, ...] = (),
    overwrite: bool = False,
    first: int = 0,
    processes: int = 1,
) -> None:
    """Write synthetic pairs in Decathlon layout with a manifest; an interrupted call goes on where it stopped.

    Args:
        workdir: a finished chain.
        output_dir: folder for the pairs.
        n: number of pairs with drawn labels; case i is the same whatever n, the batch size or a restart.
        label: a NIfTI label map of the user's own (or several, separated by commas), instead of drawn ones.
        seed: seed of all cases.
        batch_size: cases drawn at once, at most.
        num_inference_steps: steps of the sampler.
        solver, time_shift: of rectified flow.
        guidance_scale: guidance on the label, 1 for none.
        memory_gb: budget that lowers the batch size and decodes in slabs; default: what is free on a GPU.
        overlays: further configs of the bundle, such as "ddpm.yaml".
        overwrite: replace pairs that were generated with other settings or checkpoints.
        first: the first of the n pairs, so that several calls, each with a folder of its own, share a large number.
        processes: on this machine, that share the pairs, each with a GPU of its own if there are any.

    Raises:
        UserError: on an option that is not allowed, a missing checkpoint, a label that does not fit, or a folder that
            holds something else.
    """
    for name, value, least in (("n", n, 1), ("first", first, 0), ("processes", processes, 1)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"--{name} must be a whole number of at least {least}, got {value!r}")
    check_sampler(solver, time_shift, memory_gb, overlays)
    paths = {key: Path(workdir, name).resolve() for key, name in CHECKPOINTS.items()}
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint; it is made by `lldm3d run --workdir {workdir}`")
    target = Path(output_dir).resolve()
    labels = [str(Path(item).resolve()) for item in label.split(",")] if label else []
    steps = {"num_inference_steps": num_inference_steps, "solver": solver, "time_shift": time_shift}
    sampling = {"seed": seed, "guidance_scale": guidance_scale, **steps}
    manifest = {
        "lldm3d": __version__,
        **sampling,
        "checkpoints": {path.parent.name + "/" + path.name: sha256(path) for path in paths.values()},
        "labels": [{"file": Path(item).name, "sha256": sha256(item)} for item in labels if Path(item).is_file()],
    }
    overrides = {key: str(path) for key, path in paths.items()}
    overrides |= {**sampling, "output_dir": str(target), "num_cases": n, "batch_size": 1 if labels else batch_size}
    overrides |= {"label_paths": labels, "first": first, "memory_gb": memory_gb}
    overrides["noise_scheduler#num_inference_steps"] = num_inference_steps  # of an overlay's process as well
    names = [stem(Path(item)) for item in labels] or [drawn_name(index) for index in range(first, first + n)]
    claim(target, manifest, overwrite)
    run_inference(overrides, target / "overrides.yaml", overlays, processes)
    write_dataset_json(target, Path(workdir, "dataset"), names)


def check_sampler(solver: str, time_shift: float, memory_gb: float | None, overlays: tuple[str, ...]) -> None:
    """Raise UserError on an option of the sampler that is not allowed."""
    if solver not in ("euler", "heun"):
        raise UserError(f"--solver must be euler or heun, got {solver!r}")
    for name, value in {"time_shift": time_shift, "memory_gb": memory_gb}.items():
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            raise UserError(f"--{name} must be a number above 0, got {value!r}")
    if "ddpm.yaml" in overlays and (solver, time_shift) != ("euler", 1):
        raise UserError("--solver and --time_shift are of rectified flow; leave them out with the overlay ddpm.yaml")


def claim(target: Path, manifest: dict, overwrite: bool) -> None:
    """Begin `manifest.json`, or go on with the same one; refuse a folder that holds anything else."""
    path = target / "manifest.json"
    if path.is_file():
        found = read_json(path)
        changed = sorted(key for key in manifest if found.get(key) != manifest[key])
        if changed and overwrite:
            for name in ("manifest.json", "dataset.json"):
                (target / name).unlink(missing_ok=True)
            for folder in ("imagesTr", "labelsTr"):
                shutil.rmtree(target / folder, ignore_errors=True)
            write_json(path, manifest)
        elif changed:
            raise UserError(
                f"{target}: holds pairs that were generated with another {', '.join(changed)}; "
                "choose another --output_dir or pass --overwrite"
            )
    elif target.exists() and any(target.iterdir()):
        raise UserError(f"{target}: holds something else than `lldm3d generate` made; choose another --output_dir")
    else:
        write_json(path, manifest)


def run_inference(overrides: dict, path: Path, overlays: tuple[str, ...], processes: int) -> None:
    """Run the ControlNet bundle's inference with these overrides laid last."""
    with whole(path) as temporary:
        temporary.write_text(yaml.safe_dump(overrides, sort_keys=False))
    overlays = (*overlays, *([MULTI_GPU] if processes > 1 else []))
    files = ["configs/inference.yaml", *(f"configs/{name}" for name in overlays), str(path)]
    command = bundle_command("inferring", files, processes)
    done = subprocess.run(command, cwd=bundle_path("controlnet"))
    if done.returncode:
        raise UserError(f"generation failed; by hand, in {bundle_path('controlnet')}: {' '.join(command[2:])}")


def write_dataset_json(target: Path, dataset_dir: Path, names: list[str]) -> None:
    """Write `dataset.json` for what was generated, images or pairs, with the schema of the real data set."""
    schema = load_schema(dataset_dir)
    folders = {"image": "imagesTr", **({"label": "labelsTr"} if (target / "labelsTr").is_dir() else {})}
    cases = [
        {**{key: f"./{folder}/{name}.nii.gz" for key, folder in folders.items()}, "patient": name} for name in names
    ]
    missing = [case[key] for case in cases for key in folders if not (target / case[key]).is_file()]
    if missing:
        raise UserError(f"{target}: lacks {missing[:3]} after generation; see the messages above")
    content = read_json(dataset_dir / "dataset.json")
    content |= {
        "name": f"{schema.name} (synthetic)",
        "description": "Synthetic scans; no patient is shown.",
        "numTraining": len(cases),
        "numTest": 0,
        "training": cases,
        "validation": [],
        "test": [],
    }
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
    if (target / "dataset.json").exists() and not overwrite:
        raise UserError(f"{target}: holds a data set already; choose another --output_dir or pass --overwrite")
    folders = [Path(name).resolve() for name in sorted(glob(parts)) if Path(name).resolve() != target]
    manifest = common_manifest(folders, parts)
    contents = [read_json(folder / "dataset.json") for folder in folders]
    cases = [
        moved(case, folder, target)
        for folder, content in zip(folders, contents, strict=True)
        for case in content["training"]
    ]
    if twice := [name for name, count in Counter(case["patient"] for case in cases).items() if count > 1]:
        raise UserError(f"{parts}: several folders hold the cases {twice[:3]}; draw each with a --first of its own")
    write_json(target / "manifest.json", manifest)
    write_json(target / "dataset.json", contents[0] | {"numTraining": len(cases), "training": cases})


def common_manifest(folders: list[Path], parts: str) -> dict:
    """What all folders were drawn with. Raises UserError for a folder that is not whole, or differs from the first."""
    if not folders:
        raise UserError(f"--parts {parts!r}: no such folder")
    if unfinished := [folder.name for folder in folders if not (folder / "dataset.json").is_file()]:
        raise UserError(f"{parts}: {unfinished[:3]} are not finished; run `lldm3d generate` again for them")
    first = read_json(folders[0] / "manifest.json")
    for folder in folders[1:]:
        found = read_json(folder / "manifest.json")
        if changed := sorted(key for key in {**first, **found} if first.get(key) != found.get(key)):
            raise UserError(f"{folder}: was drawn with another {', '.join(changed)} than {folders[0]}")
    return first


def moved(case: dict, folder: Path, target: Path) -> dict:
    """The entry of a case of `folder` as it is seen from `target`."""
    return case | {key: os.path.relpath(folder / case[key], target) for key in ("image", "label")}
