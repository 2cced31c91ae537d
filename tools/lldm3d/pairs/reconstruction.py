"""Real training pairs whose images have gone through a method's image codec: what the codec alone costs."""

from functools import partial
from pathlib import Path

import torch
from ignite.engine import Engine

from lldm3d.codec.codec import Codec, load_codec
from lldm3d.codec.quality import reconstruct
from lldm3d.data.dataset import Case, load_cases
from lldm3d.errors import UserError
from lldm3d.files import load_nifti
from lldm3d.methods.registry import IMAGE_CODEC, Method
from lldm3d.pairs.folder import claim, pair_manifest, write_dataset_json
from lldm3d.pairs.sources import RECONSTRUCTED, TRAINING, real_labels
from lldm3d.pairs.writer import CaseWriter
from lldm3d.processes import device
from lldm3d.training.handlers import Meter, ProgressBar


def reconstruct_pairs(
    method: Method, models: Path, dataset_dir: Path, target: Path, seed: int, overwrite: bool = False
) -> None:
    """Write the labelled training cases with their images encoded and decoded; an interrupted call goes on.

    Case by case, and nothing is sampled: of the codec's latent the mean is taken.

    Args:
        models: folder of the method's trainings, of which only the image codec is read.
        seed: noted in the manifest.

    Raises:
        UserError: for a method without an image codec, or a folder that holds something else.
    """
    if IMAGE_CODEC not in method.trainings:
        raise UserError(f"{method.name} has no image codec to reconstruct with; leave out the source reconstructed")
    labels = real_labels(dataset_dir, TRAINING)
    names, file = [label.name for label in labels], f"{IMAGE_CODEC}/codec.pt"
    claim(target, pair_manifest(method, models, labels, names, seed, {}, (), files=(file,)), overwrite)
    cases = [case for case in load_cases(dataset_dir, TRAINING) if case.label]
    left = [case for case in cases if not (target / "imagesTr" / f"{case.name}.nii.gz").is_file()]
    if left:
        codec = load_codec(models / file, "image").to(device())
        engine = Engine(partial(reconstructed_pair, codec))
        for handler in (
            ProgressBar("reconstruction"),
            CaseWriter(target),
            Meter(target / "cost.json", [codec], device()),
        ):
            handler.attach(engine)
        engine.run(left)
    about = f"Real training scans, encoded and decoded by the image codec of {method.title}: no synthetic data."
    write_dataset_json(target, dataset_dir, about, names, [label.patient for label in labels], RECONSTRUCTED)


def reconstructed_pair(codec: Codec, engine: Engine, case: Case) -> dict:
    """The case as `CaseWriter` takes it: label, and reconstructed image [1, 1, X, Y, Z] in [0, 1]."""
    (image, affine), (label, _) = load_nifti(case.image), load_nifti(case.label)
    affine = torch.as_tensor(affine)[None]
    volume = torch.as_tensor(image, dtype=torch.float32)[None, None]
    output = {"image": reconstruct(codec, volume, device()), "label": torch.as_tensor(label)[None, None]}
    return {"name": [case.name], **output, "affine": affine, "source_affine": affine}
