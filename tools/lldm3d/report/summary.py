"""The report in short: four questions, each with an answer and the number behind it."""

from lldm3d.evaluation.alignment import WANTED_RATIO
from lldm3d.report.tables import number
from lldm3d.report.utility import MEAN, Line

FEW = 5  # test cases below which a bootstrap interval means nothing
USABLE = 0.3  # Dice on real images below which a network cannot judge a class


def answers(rows: list[dict], lines: list[Line]) -> list[dict]:
    """Each answer: question, answer, detail, tone (good, open, bad or none)."""
    found = [row for row in rows if row["value"] is not None]
    return [*utility(lines), fidelity(found), alignment(found), copies(found)]


def answer(question: str, words: str, detail: str, tone: str) -> dict:
    return {"question": question, "answer": words, "detail": detail, "tone": tone}


def utility(lines: list[Line]) -> list[dict]:
    """One answer for each network that was trained on R and R+S."""
    question = "Does it improve the segmentation?"
    found = []
    for line in lines:
        gain = line.gains["R+S"]
        if line.metric != "dice" or line.class_name != MEAN or gain.absolute is None:
            continue
        low, high = gain.interval or (None, None)
        few = gain.cases < FEW
        tone = "open" if few or low <= 0 <= high else "good" if low > 0 else "bad"
        words = {"open": "No clear difference", "good": "Yes", "bad": "No, it harms"}[tone]
        words = "Too few test cases to tell" if few else words
        interval = f" [{number(low, True)}, {number(high, True)}]" if low is not None else ""
        detail = f"mean Dice {number(gain.absolute, True)}{interval} for R+S over R, {gain.cases} test cases"
        found.append(answer(question, words, f"{line.network}: {detail}", tone))
    return found or [answer(question, "Not measured", "needs segmentation networks trained on R and on R+S", "none")]


def fidelity(rows: list[dict]) -> dict:
    question = "Do the images look real?"
    row = find(rows, "FID", "synthetic / real training")
    blurred = find(rows, "FID", "blurred real training / real training")
    if row is None or blurred is None or row["floor"] is None:
        return answer(question, "Not measured", "needs an evaluation", "none")
    detail = (
        f"FID {number(row['value'])}; two halves of the real images {number(row['floor'])}, "
        f"blurred real images {number(blurred['value'])} ({row['n']} cases each)"
    )
    if blurred["interval_low"] <= blurred["floor"]:
        return answer(question, "Too few cases to tell", f"{detail}: even blur is lost in the scatter", "open")
    if row["interval_low"] <= row["floor"]:
        return answer(question, "As near as other real images", detail, "good")
    if row["value"] < blurred["value"]:
        return answer(question, "Nearer to real than blurred ones", detail, "open")
    return answer(question, "Farther than blurred real ones", detail, "bad")


def alignment(rows: list[dict]) -> dict:
    question = "Do the images fit their labels?"
    ratios = [row for row in rows if row["section"] == "alignment" and row["name"] == "Dice ratio"]
    if not ratios:
        return answer(question, "Not measured", "needs an evaluation with real test cases", "none")
    worst = min(ratios, key=lambda row: row["value"])
    dice = [row for row in rows if row["section"] == "alignment" and row["name"] == "Dice" and row["floor"] is not None]
    blind = min(dice, key=lambda row: row["floor"])
    if blind["floor"] < USABLE:
        detail = f"on real images its Dice is {number(blind['floor'])} for {blind['class']}"
        return answer(question, "The judging network is too weak", detail, "open")
    good = worst["value"] >= WANTED_RATIO
    detail = f"the weakest class, {worst['class']}, reaches {number(worst['value'])} of the Dice on real images"
    return answer(question, "Yes" if good else "Not all classes", detail, "good" if good else "bad")


def copies(rows: list[dict]) -> dict:
    question = "Does it copy patients?"
    shares = [row for row in rows if row["section"] == "copies" and row["name"].startswith("share nearer")]
    if not shares:
        return answer(question, "Not measured", "needs an evaluation with held-out real cases", "none")
    near = max(row["value"] for row in rows if row["section"] == "copies" and row["name"].startswith("near copies"))
    if near:
        detail = f"pairs at less than half the distance of any held-out case from a training case: {number(near)}"
        return answer(question, "Some look like copies", f"{detail}: see the pictures below", "bad")
    worst = max(shares, key=lambda row: row["value"])
    detail = f"{worst['value']:.0%} of the synthetic cases lie suspiciously near a training case; 5 % is chance"
    surely = worst["interval_low"] is not None and worst["interval_low"] > worst["floor"]
    if surely:
        return answer(question, "More near cases than chance", detail, "bad")
    return answer(question, "No more near cases than chance", f"{detail}; look at the pictures below", "good")


def find(rows: list[dict], name: str, between: str) -> dict | None:
    return next((row for row in rows if row["name"] == name and row["between"] == between), None)
