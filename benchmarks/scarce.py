"""What unlabelled scans are worth to a site with the labels of a tenth of the patients, with and without a generator.

    python -m benchmarks.scarce --workdir W --data Task04_Hippocampus --output_dir OUT --profile benchmarks/scarce.yaml

W is of `lldm3d run --data Task04_Hippocampus --profile small`, of which only W/dataset is needed. For each seed there
are in OUT: networks that learn from the tenth alone (voters), their vote on the other scans (voted), a generator that
learns from the tenth's labels and from the vote's, and its pairs for warped ones of these labels (generator). Then W's
study of 0.1R, with the voted scans as S and with the pairs as S. What is there is not done again.
"""

from pathlib import Path

import fire

from lldm3d.data.regimes import write_seen
from lldm3d.evaluation.refining import pseudo_label
from lldm3d.pipeline.run import run, study

SHARE = 0.1
VOTERS = (0, 1, 2)  # seeds of the networks of one tenth
NETWORK = "seg_resunet"


def vote(real: Path, out: Path, seed: int, profile: str, cores: int) -> None:
    """Train the networks of a tenth, and label the other scans by them."""
    voters, voted = out / f"voters/seed_{seed}", out / f"voted/seed_{seed}"
    if not (voters / "dataset/dataset.json").is_file():
        write_seen(real, voters / "dataset", SHARE, False, seed)
    study(str(voters), profile, networks=NETWORK, regimes="R", seeds=VOTERS, cores=cores)
    if not voted.is_dir():
        pseudo_label(str(voters), str(voted))


def main(
    workdir: str,
    data: str,
    output_dir: str,
    profile: str,
    method: str = "gem3d",
    seeds: tuple[int, ...] = (0, 1, 2),
    cores: int = 2,
) -> None:
    """Do what is not done; the tables of W's study tell the result."""
    work, out = Path(workdir).resolve(), Path(output_dir).resolve()
    for seed in seeds:
        vote(work / "dataset", out, seed, profile, cores)
    generator, limits = str(out / "generator"), {"label_fraction": SHARE, "pseudo_labels": str(out / "voted")}
    run(generator, profile, data, methods=method, sources="training", until="pairs", cores=cores, **limits)
    grid = {"networks": NETWORK, "seeds": seeds, "cores": cores}
    for pairs in (out / "voted", out / f"generator/pairs/{method}/training"):
        study(str(work), profile, str(pairs), regimes=f"{SHARE}R,{SHARE}R+{1 - SHARE:g}S", **grid)


if __name__ == "__main__":
    fire.Fire(main)
