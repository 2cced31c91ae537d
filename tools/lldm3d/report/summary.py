"""The report in short: four questions, each with an answer and the number behind it."""

from lldm3d.data.dataset import ALL
from lldm3d.data.regimes import parse_regime
from lldm3d.evaluation.alignment import WANTED_RATIO
from lldm3d.evaluation.features import TEXTURE
from lldm3d.evaluation.metrics import Compared, Metric, find_row, find_rows
from lldm3d.evaluation.metrics import format_number as number
from lldm3d.pairs.sources import WARPED
from lldm3d.study.stages import Arm
from lldm3d.study.statistics import Line, of_task
from lldm3d.study.tables import TRAINED

FEW = 5  # test cases below which a bootstrap interval means nothing
USABLE = 0.3  # Dice on real images below which a network cannot judge a class


def answers(rows: list[dict], lines: list[Line], elsewhere: str = "") -> list[dict]:
    """Each answer: question, answer, detail, tone (good, open, bad or none).

    Args:
        rows: of an evaluation's `metrics.json`, and any others.
        lines: of the study.
        elsewhere: of the copies among other pairs, as `copies_elsewhere` says it.
    """
    copies = copies_answer(rows)
    if elsewhere:
        copies |= {"detail": f"{copies['detail']}; {elsewhere}"}
    return [*utility_answers(lines), fidelity_answer(rows), alignment_answer(rows), copies]


def answer(question: str, words: str, detail: str, tone: str) -> dict:
    return {"question": question, "answer": words, "detail": detail, "tone": tone}


def utility_answers(lines: list[Line]) -> list[dict]:
    """One answer for each network and pairs beside all real cases, for the task of all classes where it is there."""
    question = "Does it improve the segmentation?"
    shown = [line for line in lines if line.metric == "dice" and line.class_name == of_task(line.task, lines)]
    shown = [line for line in shown if line.task == ALL] or shown
    found = [utility_answer(question, line, arm) for line in shown for arm in beside_all(line)]
    return found or [answer(question, "Not measured", "needs segmentation networks trained on R and on R+S", "none")]


def beside_all(line: Line) -> list[Arm]:
    """The arms that learn from all real cases and synthetic pairs beside them; the control has no synthetic ones."""
    return [arm for arm in line.gains if parse_regime(arm.regime).beside_all and arm.pairs != WARPED]


def utility_answer(question: str, line: Line, arm: Arm) -> dict:
    gain = line.gains[arm]
    few = gain.patients < FEW
    tone = "open" if few or not gain.clear else "good" if line.better(arm) else "bad"
    words = {"open": "No clear difference", "good": "Yes", "bad": "No, it harms"}[tone]
    words = "Too few test cases to tell" if few else words
    interval = f" [{number(gain.interval[0], True)}, {number(gain.interval[1], True)}]" if gain.interval else ""
    detail = f"{line.class_name} Dice {number(gain.absolute, True)}{interval} for {arm} over {gain.reference}"
    if control := line.gains.get(Arm(arm.regime, WARPED)):
        detail += f" (the real scans, warped as the labels are, bring {number(control.absolute, True)})"
    numbers = f"{gain.patients} test patients, {len(gain.seeds)} seed{'s' if len(gain.seeds) > 1 else ''}"
    return answer(question, words, f"{line.network}, {line.task}, {TRAINED[line.until]}: {detail}, {numbers}", tone)


def next_step(lines: list[Line], copied: bool = False) -> dict:
    """What the answers on the segmentation come to, in one sentence on what to do next: its words and tone.

    Args:
        lines: of the study.
        copied: whether pairs look like copies of patients.
    """
    found = utility_answers(lines)
    tones = {item["tone"] for item in found}
    if "none" in tones:
        words = "train networks on R and on R+S (`lldm3d run --workdir W`) before you use the pairs."
        return {"tone": "none", "words": words}
    if {"good", "bad"} <= tones:
        words = "it helps some and harms others, so add synthetic pairs only where yes stands below."
        return {"tone": "open", "words": words}
    if "good" in tones:
        words = "it helps: train with the pairs, and confirm the gain on scans of another site before you rely on it."
        if copied:
            words += " Some pairs look like copies of patients: keep them where these scans may be."
        return {"tone": "good", "words": words}
    if "bad" in tones:
        words = (
            "it harms: train on real data alone, and let `lldm3d study --workdir W --ladder` tell where Dice is lost."
        )
        return {"tone": "bad", "words": words}
    gains = [line.gains[arm] for line in lines for arm in beside_all(line)]
    if max(gain.patients for gain in gains) < FEW:
        words = f"it cannot be told from so few test cases: prepare the data with {FEW} or more of them, better 20."
    elif max(len(gain.seeds) for gain in gains) == 1:
        words = "it cannot be told from one training: train more seeds (`lldm3d study --workdir W --seeds 0,1,2`)."
    else:
        words = (
            "it cannot be told: keep to real data, or ask whether fewer patients gain "
            "(`lldm3d study --workdir W --regimes 0.1R,0.1R+S`)."
        )
    return {"tone": "open", "words": words}


def fidelity_answer(rows: list[dict]) -> dict:
    question = "Do the images look real?"
    row = find_row(rows, Metric.FID, Compared.SYNTHETIC_TRAINING)
    blurred = find_row(rows, Metric.FID, Compared.BLURRED_TRAINING)
    if row is None or blurred is None or row["floor"] is None:
        return answer(question, "Not measured", "needs an evaluation", "none")
    detail = (
        f"FID {number(row['value'])}; two halves of the real images {number(row['floor'])}, "
        f"blurred real images {number(blurred['value'])} ({row['n']} cases each)"
    )
    if blurred["interval_low"] <= blurred["floor"]:
        return answer(question, "Too few cases to tell", f"{detail}: even blur is lost in the scatter", "open")
    texture = find_row(rows, Metric.FID, Compared.SYNTHETIC_TRAINING, variant=TEXTURE)
    smooth = texture is not None and texture["interval_low"] > texture["floor"]  # content hardly sees sharpness
    if smooth:
        detail += f"; texture {number(texture['value'] / texture['floor'])} times the FID of real halves"
    if row["interval_low"] <= row["floor"]:
        words = "In content as other real images, not in texture" if smooth else "As near as other real images"
        return answer(question, words, detail, "open" if smooth else "good")
    if row["value"] < blurred["value"]:
        return answer(question, "Nearer to real than blurred ones", detail, "open")
    return answer(question, "Farther than blurred real ones", detail, "bad")


def alignment_answer(rows: list[dict]) -> dict:
    question = "Do the images fit their labels?"
    ratios = [row for row in find_rows(rows, Metric.ALIGNMENT_DICE_RATIO) if not row["variant"]]
    if not ratios:
        return answer(question, "Not measured", "needs an evaluation with real test cases", "none")
    worst = min(ratios, key=lambda row: row["value"])
    dice = [row for row in find_rows(rows, Metric.ALIGNMENT_DICE) if row["floor"] is not None and not row["variant"]]
    blind = min(dice, key=lambda row: row["floor"])
    if blind["floor"] < USABLE:
        detail = f"on real images its Dice is {number(blind['floor'])} for {blind['class']}"
        return answer(question, "The segmentation network is too weak", detail, "open")
    good = worst["value"] >= WANTED_RATIO
    detail = f"the weakest class, {worst['class']}, reaches {number(worst['value'])} of the Dice on real images"
    return answer(question, "Yes" if good else "Not all classes", detail, "good" if good else "bad")


def copies_answer(rows: list[dict]) -> dict:
    question = "Does it copy patients?"
    shares = find_rows(rows, Metric.NEARER_SHARE)
    if not shares:
        return answer(question, "Not measured", "needs an evaluation with held-out real cases", "none")
    near = max(row["value"] for row in find_rows(rows, Metric.NEAR_COPIES))
    if near:
        detail = (
            f"{number(near)} lie nearer to a training case than half the distance that three in four real cases keep"
        )
        return answer(question, "Some look like copies", f"{detail}; see the pictures below", "bad")
    worst = max(shares, key=lambda row: row["value"])
    detail = f"{worst['value']:.0%} of the synthetic cases lie suspiciously near a training case; 5 % is chance"
    surely = worst["interval_low"] is not None and worst["interval_low"] > worst["floor"]
    if surely:
        return answer(question, "More near cases than chance", detail, "bad")
    return answer(question, "No more near cases than chance", f"{detail}; look at the pictures below", "good")
