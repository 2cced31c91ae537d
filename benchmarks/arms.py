"""How much more Dice the pairs of one method bring than those of others, patient by patient, as JSON.

    python -m benchmarks.arms --workdir W --regime 4xR+4S --first haar_ldm-training

Of all trainings of a study that are finished, each difference over the seeds that both have. Two gains whose intervals
overlap may differ surely, as both are of the same patients.
"""

import json
from pathlib import Path

import fire

from benchmarks.machine import describe
from lldm3d.study.scores import read_scores
from lldm3d.study.stages import Arm
from lldm3d.study.statistics import by_arm, gain_over, patient_means


def main(workdir: str, regime: str, first: str, network: str = "seg_resunet", metric: str = "dice") -> None:
    means = patient_means(read_scores(Path(workdir)))
    chosen = means[(means["network"] == network) & (means["metric"] == metric) & (means["class"] == "mean")]
    arms = by_arm(chosen)
    own = arms[Arm(regime, first)]
    found = {}
    for arm, values in arms.items():
        if arm.regime == regime and (gain := gain_over(arm.reference, arms[arm.reference], values)):
            found[arm.pairs] = {"gain": gain.absolute, "interval": gain.interval, "seeds": gain.seeds}
            if arm.pairs != first and (less := gain_over(arm, values, own)):
                found[arm.pairs]["first_brings_more"] = {"difference": less.absolute, "interval": less.interval}
    print(json.dumps({"first": first, "regime": regime, "arms": found, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
