"""Checks between stages: the files that a stage reads are whole and fit each other and the data set."""

from pathlib import Path

from lldm3d.data.dataset import Schema
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, sha256

KINDS = ("image", "label")


def codec_path(work: Path, kind: str) -> Path:
    return work / f"autoencoder_{kind}" / "codec.pt"


def codec(work: Path, kind: str, schema: Schema) -> dict:
    """The codec of `kind`, "image" or "label". Raises UserError when it is not one of this data set."""
    path, stage = codec_path(work, kind), f"autoencoder_{kind}"
    content = load_checkpoint(path, made_by=stage)
    require(content.get("kind") == kind, path, f"holds a codec of kind {content.get('kind')!r}, not {kind!r}", stage)
    require_class_names(content, path, schema, stage)
    return content


def codec_hashes(work: Path) -> dict[str, str]:
    return {kind: sha256(codec_path(work, kind)) for kind in KINDS}


def latents(work: Path) -> None:
    """Raises UserError when the latents are missing or were made by other codecs than those in the work directory."""
    path = work / "latents" / "latents.json"
    require_codecs(read_json(path), path, work, "latents")


def diffusion(work: Path, stage: str, schema: Schema) -> dict:
    """The model of the stage `stage`. Raises UserError when its classes or its codecs are others."""
    path = work / stage / "model.pt"
    content = load_checkpoint(path, made_by=stage)
    require_class_names(content, path, schema, stage)
    require_codecs(content, path, work, stage)
    return content


def gate(work: Path, thresholds: dict[str, float]) -> None:
    """Stop before the second step of the chain when an autoencoder loses too much: nothing later can mend that.

    Args:
        thresholds: `image_psnr` in dB, `label_dice` as the mean over classes in 0..1.
    """
    measured = {
        "image_psnr": (work / "autoencoder_image" / "metrics.json", "psnr"),
        "label_dice": (work / "autoencoder_label" / "metrics.json", "mean_dice"),
    }
    faults = []
    for name, (path, key) in measured.items():
        value = read_json(path).get(key, float("nan"))
        if not value >= thresholds[name]:  # NaN fails too
            stage = path.parent.name
            faults.append(
                f"{path}: {key} is {value:.4g}, below the gate {name}: {thresholds[name]:g}; train {stage} longer "
                f"(raise {stage}#epochs) or with more channels in the profile, or lower gates#{name} there"
            )
    if faults:
        raise UserError("\n".join(faults))


def require(fits: bool, path: Path, fault: str, stage: str) -> None:
    if not fits:
        raise UserError(f"{path}: {fault}; delete it and run the stage {stage!r} again")


def require_class_names(content: dict, path: Path, schema: Schema, stage: str) -> None:
    found, expected = list(content.get("class_names", [])), list(schema.class_names)
    require(found == expected, path, f"was made for the classes {found}, the data set has {expected}", stage)


def require_codecs(content: dict, path: Path, work: Path, stage: str) -> None:
    found, expected = content.get("codecs", {}), codec_hashes(work)
    other = [str(codec_path(work, kind)) for kind in KINDS if found.get(kind) != expected[kind]]
    require(not other, path, f"was made with another version of {' and '.join(other)}", stage)
