"""How time and memory grow with the number of cases, of trainings, of files, and of voxels.

    python -m benchmarks.scaling --workdir work/scaling

Volumes are tiny (32x32x16 voxels), a dozen of them under many names, so that what grows with the number shows. Each
measurement runs in a process of its own. Prints JSON: of each part the exponent of its time, fitted over all numbers
(1 is in proportion to them), then processor seconds and the growth of memory at each number.
"""

import json
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from time import process_time

import fire
import numpy as np
import psutil
import torch

from benchmarks.flops import count
from benchmarks.machine import describe
from benchmarks.plans import livers, plan_of
from benchmarks.watch import processor_seconds
from lldm3d.agreement import METRICS
from lldm3d.data.dataset import load_cases
from lldm3d.data.prepare import prepare
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.evaluation.metrics import write_csv
from lldm3d.files import read_json, write_json
from lldm3d.methods.registry import OURS
from lldm3d.phantom.case import CLASS_NAMES
from lldm3d.phantom.write import write_phantom
from lldm3d.pipeline.cost import TIMED, WARM_UP, network_and_inputs, plain_step, saved_bytes, step_seconds
from lldm3d.pipeline.run import run
from lldm3d.study.scores import HEADER, read_scores
from lldm3d.study.stages import REAL, SegmentStage
from lldm3d.study.statistics import lines

DRAWN = 12


def raw_cases(work: Path, number: int) -> Path:
    """A raw data set of `number` cases: links to a dozen of drawn ones."""
    return linked(work / "drawn", work / f"raw_{number}", number, "training", patients=DRAWN)


def linked(source: Path, target: Path, number: int, *splits: str, patients: int | None = None) -> Path:
    """A data set of `number` cases in each of the splits, whose files are links to those of `source`.

    Each is a patient of its own, or of a dozen `patients`: `prepare` refuses one scan of two patients.
    """
    content = read_json(source / "dataset.json")
    pool = [case for split in ("training", "validation", "test") for case in content.get(split, [])]
    content |= {"training": [], "validation": [], "test": []}
    for split in splits:
        for index in range(number):
            entry = {"patient": f"{split}_{index % (patients or number)}"}
            for key in ("image", "label"):
                path = target / f"{key}sTr" / f"{split}_{index:05d}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(source / pool[index % len(pool)][key], path)
                entry[key] = str(path.relative_to(target))
            content[split].append(entry)
    write_json(target / "dataset.json", content)
    return target


def preparing(work: Path, number: int) -> None:
    prepare(work / f"prepared_{number}", data=str(work / f"raw_{number}"), roi_size=(32, 32, 16))


def reading(work: Path, number: int) -> None:
    load_cases(work / f"raw_{number}", "training")


def evaluating(work: Path, number: int) -> None:
    real, made = work / f"real_{number}", work / f"made_{number}"
    evaluate(real, made, work / f"evaluation_{number}", overwrite=True)


def judging(work: Path, number: int) -> None:
    for _ in lines(read_scores(work / f"study_{number}")):
        pass


def planning(work: Path, number: int) -> None:
    profile = work / f"profile_{number}.yaml"
    profile.write_text(json.dumps({"base": "demo", "segment": {"seeds": list(range(number // 2))}}))
    run(str(work / f"plan_{number}"), profile=str(profile), dry_run=True, cores=1)


def listing(work: Path, number: int) -> None:
    read_json(work / f"list_{number}.json")


def write_inputs(work: Path, cases: list[int], few: list[int], entries: list[int]) -> None:
    # two dozens: a drawn label that equals a real one would be measured beside its image
    for seed, (drawn, dozen) in enumerate((("drawn", "real"), ("drawn_others", "made"))):
        write_phantom(work / drawn, num_cases=DRAWN, size=(32, 32, 16), spacing=(6.0, 6.0, 8.0), seed=seed)
        prepare(work / dozen, data=str(work / drawn), roi_size=(32, 32, 16))
    for number in cases:
        raw_cases(work, number)
        write_scores(work / f"study_{number}", number)
    for number in few:
        linked(work / "real", work / f"real_{number}", number // 3, "training", "test")
        linked(work / "made", work / f"made_{number}", number // 3, "training")
    for number in entries:
        write_json(work / f"list_{number}.json", {"training": [entry(index) for index in range(number)]})


def entry(index: int) -> dict:
    name = f"synthetic_{index:05d}"
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz", "patient": name}


def write_scores(work: Path, patients: int) -> None:
    """What two regimes of one network with two seeds would score."""
    rng = np.random.default_rng(0)
    for regime, pairs in (("R", REAL), ("R+S", "lldm")):
        for seed in range(2):
            rows = (
                {"case": f"case_{i}", "patient": f"case_{i}", "class": name, **dict.fromkeys(METRICS, rng.random())}
                for i in range(patients)
                for name in CLASS_NAMES[1:]
            )
            stage = SegmentStage("steps", "seg_unet", "multi", regime, pairs, seed)
            write_csv(work / stage.path / "metrics.csv", HEADER, rows)


def measured(call: Callable[[Path, int], None], work: Path, number: int) -> dict:
    """Processor seconds and further memory of one call, in a process of its own."""
    # not forked from here: torch waits for ever for the threads that a fork has lost
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scaling"])
    results = context.Queue()
    process = context.Process(target=measure, args=(call, work, number, results))
    process.start()
    process.join()
    return {"number": number, **results.get(timeout=10)}


def measure(call: Callable[[Path, int], None], work: Path, number: int, results) -> None:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        before, start = psutil.Process().memory_info().rss, process_time() + processor_seconds()
        call(work, number)
        seconds = process_time() + processor_seconds() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put({"seconds": round(seconds, 3), "memory_mb": round((peak - before) / 1e6, 1)})


def grown(call: Callable[[Path, int], None], work: Path, numbers: list[int]) -> dict:
    rows = [measured(call, work, number) for number in numbers]
    print(call.__name__, rows, file=sys.stderr)
    return {"exponent": exponent(numbers, [row["seconds"] for row in rows]), "rows": rows}


def exponent(numbers: list[int], seconds: list[float]) -> float:
    return round(float(np.polyfit(np.log(numbers), np.log(np.maximum(seconds, 1e-4)), 1)[0]), 2)


def folders(work: Path, number: int) -> dict:
    """Processor seconds to make empty files, to list them and to ask for each: all in one folder, or 1000 in each."""
    result = {}
    for name, size in (("one folder", number), ("1000 in each", 1000)):
        root = work / name
        start = process_time()
        for index in range(number):
            folder = root / str(index // size)
            if index % size == 0:
                folder.mkdir(parents=True)
            os.close(os.open(folder / f"synthetic_{index:05d}.nii.gz", os.O_CREAT | os.O_WRONLY))
        made = process_time()
        files = [item.path for folder in os.scandir(root) for item in os.scandir(folder)]
        seen = process_time()
        for file in files:
            os.stat(file)
        result[name] = {"make": made - start, "list": seen - made, "ask": process_time() - seen}
        shutil.rmtree(root)
    return {"files": number, **{name: {k: round(v, 3) for k, v in row.items()} for name, row in result.items()}}


def stepping(stage: str, size: int) -> dict:
    """One training step of the profile `small` on one case of size^3 voxels: processor seconds, operations, memory."""
    plan = plan_of("small")
    plan.section(OURS, stage)["batch_size"] = 1
    plan.section(OURS, "autoencoder_image")["roi_size"] = [size] * 3
    latent = stage != "autoencoder_image"
    network, inputs = network_and_inputs(plan, plan.loaded[OURS], stage, livers([size] * 3), latent)
    step = plain_step(network, inputs, torch.device("cpu"))
    operations, kept, start = count(step), saved_bytes(step), process_time()
    step_seconds(step)
    seconds = (process_time() - start) / (WARM_UP + TIMED)
    return {"voxels": size**3, "seconds": round(seconds, 4), "gflop": operations / 1e9, "kept_mb": kept / 1e6}


def voxels(stage: str, sizes: tuple[int, ...]) -> dict:
    rows = [stepping(stage, size) for size in sizes]
    names, numbers = ("seconds", "gflop", "kept_mb"), [row["voxels"] for row in rows]
    fitted = {name: exponent(numbers, [row[name] for row in rows]) for name in names}
    return {"exponents": fitted, "rows": [{k: round(v, 4) for k, v in row.items()} for row in rows]}


def scaling(
    workdir: str,
    cases: tuple[int, ...] = (50, 500, 5000),
    few: tuple[int, ...] = (60, 600, 6000),
    trainings: tuple[int, ...] = (4, 40, 400),
    entries: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    files: int = 100_000,
    sizes: tuple[int, ...] = (16, 32, 48),
) -> None:
    work = Path(workdir)
    if work.exists():
        sys.exit(f"{work} exists; choose another --workdir")
    with redirect_stdout(sys.stderr):
        write_inputs(work, list(cases), list(few), list(entries))
    plans = (
        ("prepare, cases", preparing, cases),
        ("dataset.json and its files, cases", reading, cases),
        ("evaluate, new volumes", evaluating, few),
        ("evaluate, from the cache, volumes", evaluating, few),
        ("study's statistics, test patients", judging, cases),
        ("Snakemake's plan, trainings", planning, trainings),
        ("dataset.json alone, entries", listing, entries),
    )
    result = {name: grown(call, work, list(numbers)) for name, call, numbers in plans}
    size = {number: round((work / f"list_{number}.json").stat().st_size / 1e6, 1) for number in entries}
    result |= {"dataset.json, MB": size, "folders": folders(work / "files", files)}
    result |= {f"a step of {stage}": voxels(stage, sizes) for stage in ("autoencoder_image", "image_ldm", "controlnet")}
    print(json.dumps({"growth": result, "machine": describe(), "command": "python -m benchmarks.scaling"}, indent=1))


if __name__ == "__main__":
    fire.Fire(scaling)
