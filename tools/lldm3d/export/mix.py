"""The mix of one regime as one dataset.json."""

from pathlib import Path

from lldm3d.data.dataset import SPLITS, load_cases
from lldm3d.data.regimes import regime_cases
from lldm3d.files import read_json


def mixed_dataset(real: str | Path, synthetic: str | Path | None, regime: str, seed: int) -> dict:
    """A Decathlon list: what dataset.json of `real` says, with the regime's training cases and absolute paths.

    Validation and test cases are real. Raises UserError as `regime_cases` does.
    """
    content = read_json(Path(real) / "dataset.json")
    cases = {split: load_cases(real, split) for split in SPLITS}
    cases["training"] = regime_cases(real, synthetic, regime, seed)
    numbers = {"numTraining": len(cases["training"]), "numTest": len(cases["test"])}
    return {**content, "regime": regime, "regime_seed": seed, **numbers, **cases}
