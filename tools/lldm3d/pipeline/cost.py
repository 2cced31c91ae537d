"""What the trainings and pairs of a run take on this machine, from steps of their networks on random volumes.

A dry run prints it, and notes it as time limits for a cluster's jobs.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch.autograd.graph import saved_tensors_hooks

from lldm3d.bundle import TRAIN, bundle_path
from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.diffusion.networks import ControlledDiffusion
from lldm3d.errors import UserError
from lldm3d.methods.registry import Method
from lldm3d.pipeline.cluster import limit_key, note_limits
from lldm3d.pipeline.plan import DATASET, Plan, draws_labels, number_of_pairs
from lldm3d.pipeline.profile import SEGMENT_OVERLAY, overlays_of, overrides_of
from lldm3d.pipeline.stages import Job
from lldm3d.study.stages import CAP, SegmentStage
from lldm3d.training.inferers import AutocastInferer

WARM_UP, TIMED = 2, 5  # steps
BASE = 0.7  # GB of a process of torch and MONAI that holds nothing yet
FLOATS = 5  # of each weight in memory: itself, gradient, two moments of Adam, average
COPIES = 4  # of the weights on the disk: the best ones, and the state with two moments of Adam
START = 10  # seconds until a job's process takes its first step
BACKWARD = 2  # of the time of a forward pass
ZIPPED, CACHED = 1 / 20, 5  # bytes of a voxel of a predicted label map; of a case that all trainings share


@dataclass(frozen=True)
class Cost:
    """Of one training."""

    steps: int
    step_seconds: float
    batch_size: int
    parameters: int
    saved: int  # bytes that a step keeps from its forward for its backward pass
    processes: int = 1

    @property
    def minutes(self) -> float:
        return (START + self.steps * self.step_seconds) / 60

    @property
    def forward_seconds(self) -> float:
        """Of one case."""
        return self.step_seconds / self.batch_size / (1 + BACKWARD)

    @property
    def memory(self) -> float:
        """GB."""
        return (BASE + (self.saved + 4 * FLOATS * self.parameters) / 1e9) * self.processes

    @property
    def disk(self) -> float:
        """GB."""
        return 4 * COPIES * self.parameters / 1e9


def print_cost(work: Path, plan: Plan, jobs: list[Job]) -> None:
    """Print what the jobs take, and note it for a cluster's jobs; nothing where the data set is not prepared."""
    if not (work / DATASET).is_file():
        return
    torch.set_num_threads(plan.threads)
    schema, minutes = load_schema(work / "dataset"), {}
    for method in plan.loaded.values():
        minutes |= print_method_cost(work, plan, method, schema, jobs)
    segments = [SegmentStage.parse(job.name) for job in jobs if job.stage == "segment"]
    minutes |= print_study_cost(work, plan, segments, schema)
    try:
        note_limits(work, plan, minutes)
    except UserError as error:
        print(f"not noted for the jobs of a cluster: {error}")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU with {plan.threads} threads"
    print(f"from steps on this {where}; without loading, validation, and the further losses of autoencoders")


def print_method_cost(work: Path, plan: Plan, method: Method, schema: Schema, jobs: list[Job]) -> dict[str, float]:
    """Print the cost of a method's trainings among the jobs, and of a pair; minutes by `limit_key`."""
    own = [job for job in jobs if job.values.get("method") == method.name]
    wanted = {job.values["training"]: job for job in own if job.stage == "train"}
    drawing = [job for job in own if job.stage == "pairs"]
    if not wanted and not drawing:
        return {}
    used = method.used(given=not draws_labels(plan, method.name))
    costs = {name: measure_training(plan, method, name, schema) for name in used}
    minutes = {}
    for training, job in wanted.items():
        cost = costs[training]
        if cost is None:
            continue
        print(
            f"{job.name}: {cost.steps} steps at {cost.step_seconds:.3g} s, {cost.minutes:.3g} minutes; "
            f"{cost.memory:.2g} GB of memory, {cost.disk:.2g} GB of disk"
        )
        minutes[limit_key(job)] = cost.minutes
    silent = [name for name in wanted if costs[name] is None and method.trainings[name].run == "training"]
    if silent:
        epochs = "" if plan.minutes else ", its own epochs (minutes are for methods that are compared)"
        print(f"{method.name}: what {', '.join(silent)} takes is not measured here{epochs}")
    known = {name: cost for name, cost in costs.items() if cost}
    learning = [name for name in used if method.trainings[name].run == "training"]
    if drawing and learning and all(name in known for name in learning):
        seconds = pair_seconds(plan, method, known, schema)
        print(f"pairs of {method.name}: {seconds:.3g} s for each pair")
        minutes[limit_key(drawing[0])] = number_of_pairs(work, plan) * seconds / 60 / max(1, drawing[0].processes)
    return minutes


def measure_training(plan: Plan, method: Method, training: str, schema: Schema) -> Cost | None:
    """The cost of a training, from some of its steps on random volumes; None for what no such step stands for.

    Those are encodings, codecs that are only measured, and networks without the id `architecture` or that read the
    latents of another autoencoder.

    Raises UserError for sizes that a network refuses.
    """
    parser = training_config(plan, method, training, schema)
    latent = "latents_dir" in parser
    if not {"architecture", "epochs"} <= set(parser.get()) or not (latent or "kind" in parser):
        return None
    section = plan.section(method.name, training)
    network, inputs = network_and_inputs(plan, method, training, schema, latent)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = plain_step(network.to(device), [item.to(device) for item in inputs], device)
    saved, seconds = saved_bytes(step), step_seconds(step)
    minutes = section.get("minutes") or (plan.minutes and plan.minutes * method.trainings[training].share)
    steps = parser.get_parsed_content("epochs") * parser.get_parsed_content("epoch_length")
    return Cost(
        steps=round(60 * minutes / seconds) if minutes else steps,
        step_seconds=seconds,
        batch_size=len(inputs[0]),
        parameters=sum(item.numel() for item in network.parameters()),
        saved=saved,
        processes=section.get("processes", 1),
    )


def training_config(plan: Plan, method: Method, training: str, schema: Schema) -> ConfigParser:
    """The `ConfigParser` of a training with the profile's settings, and what it repeats of earlier ones' configs."""
    entry, section = method.trainings[training], plan.section(method.name, training)
    folder = bundle_path(method.bundle_of(training))
    parser = ConfigParser()
    parser.read_config([str(folder / config) for config in (*entry.configs, *overlays_of(section))])
    repeated = {}
    for other, ids in entry.repeats.items():
        earlier = training_config(plan, method, other, schema)
        repeated |= {key: earlier.get_parsed_content(key) for key in ids if key in earlier}
        if "stride" in ids:
            repeated["stride"] = codec_stride(earlier)
    given = {"class_names": list(schema.class_names), **entry.settings, **repeated, **overrides_of(section)}
    parser.update({key: value for key, value in given.items() if key.split("#")[0] in parser})
    return parser


def codec_stride(config: ConfigParser) -> int:
    """Voxels for each latent voxel, by the config of the codec's training."""
    if "stride" in config:
        return config.get_parsed_content("stride")
    return 2 ** (len(config.get_parsed_content("channels")) - 1)


def network_and_inputs(
    plan: Plan, method: Method, training: str, schema: Schema, latent: bool
) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The network of a training and a random batch of what it is called with."""
    parser = training_config(plan, method, training, schema)
    batch, classes = parser.get_parsed_content("batch_size"), len(schema.class_names)
    try:
        network = parser.get_parsed_content("architecture")()
    except ValueError as error:
        raise UserError(f"methods#{method.name}#{training}: {error}; correct its channels in the profile") from None
    if not latent:
        channels = classes if parser.get_parsed_content("kind") == "label" else 1
        return network, [torch.rand(batch, channels, *schema.crop(plan.section(method.name, training).get("roi_size")))]
    repeats = method.trainings[training].repeats
    codec = training_config(plan, method, next(o for o, ids in repeats.items() if "latent_channels" in ids), schema)
    size = [length // codec_stride(codec) for length in schema.roi_size]
    inputs = [torch.randn(batch, codec.get_parsed_content("latent_channels"), *size), torch.zeros(batch)]
    if "diffusion_def" in parser:  # a ControlNet: of the frozen network whose layers it repeats
        frozen, _ = network_and_inputs(plan, method, list(repeats)[-1], schema, True)
        network = ControlledDiffusion(frozen, network)
    if "condition" in parser:
        inputs.append(torch.rand(batch, classes, *schema.roi_size))
    if parser.get("sized"):
        inputs.append(torch.rand(batch, classes - 1))
    return network, inputs


def pair_seconds(plan: Plan, method: Method, costs: dict[str, Cost], schema: Schema) -> float:
    """Of drawing a pair by the networks that no other one contains, and decoding (half of a forward pass)."""
    section, calls, decoding = plan.section(method.name, "inference"), 0.0, 0.0
    guided = 2 if section.get("guidance_scale", 1) != 1 else 1
    diffusion = [name for name in costs if method.trainings[name].repeats]
    inner = {other for name in diffusion for other in method.trainings[name].repeats}
    for name, cost in costs.items():
        if name in diffusion and name not in inner:
            conditional = "condition" in training_config(plan, method, name, schema)
            calls += cost.forward_seconds * (guided if conditional else 1)
        elif name not in diffusion:
            window = torch.Size(schema.crop(plan.section(method.name, name).get("roi_size"))).numel()
            decoding += cost.forward_seconds / 2 * torch.Size(schema.roi_size).numel() / window
    each = 2 if section.get("solver") == "heun" else 1
    return section.get("num_inference_steps", 20) * each * calls + decoding


def print_study_cost(work: Path, plan: Plan, stages: list[SegmentStage], schema: Schema) -> dict[str, float]:
    """Print what the segmentations take; the minutes of the longest by `limit_key`."""
    if not stages:
        return {}
    section = plan.settings["segment"]["overrides"]
    overrides = {"class_names": list(schema.class_names), **section, "roi_size": schema.crop(section.get("roi_size"))}
    voxels, tasks = torch.Size(schema.roi_size).numel(), {stage.task for stage in stages}
    predictions = len(load_cases(work / "dataset", "test")) * voxels * ZIPPED
    cases = sum(len(load_cases(work / "dataset", split)) for split in ("training", "validation"))
    hours, longest, disk = 0.0, 0.0, len(tasks) * cases * voxels * CACHED
    for (network, until), count in Counter((stage.network, stage.until) for stage in stages).items():
        cost = measure_segmentation(network, overrides, CAP if until == "convergence" else 1)
        longest, hours = max(longest, cost.minutes), hours + count * cost.minutes / 60
        disk += count * (4 * COPIES * cost.parameters + predictions)
        most = "at most " if until == "convergence" else ""
        print(
            f"{network}: {count} trainings of {most}{cost.steps} steps at {cost.step_seconds:.3g} s, "
            f"{cost.minutes / 60:.3g} hours each; {cost.parameters / 1e6:.3g} million parameters"
        )
    print(
        f"{len(stages)} segmentations, {hours:.3g} hours, to be divided by the trainings at once; "
        f"{disk / 1e9:.2g} GB of disk"
    )
    return {"segment": longest}


def measure_segmentation(network: str, overrides: dict, times: int = 1) -> Cost:
    """The cost of a training of the bundle `network` with these overrides, for so many times its steps."""
    parser = ConfigParser()
    parser.read_config([str(bundle_path(network) / TRAIN), SEGMENT_OVERLAY])
    parser.update(overrides)
    keys = ("network", "loss", "optimizer", "train#inferer", "device", "roi_size", "batch_size", "class_names")
    model, loss, optimizer, inferer, device, size, batch, names = (parser.get_parsed_content(key) for key in keys)
    image = torch.rand(batch, 1, *size, device=device)
    label = torch.randint(len(names), (batch, 1, *size), device=device)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        loss(inferer(image, model), label).backward()
        optimizer.step()

    steps = times * parser.get_parsed_content("epochs") * parser.get_parsed_content("epoch_length")
    parameters = sum(item.numel() for item in model.parameters())
    return Cost(steps, step_seconds(step), batch, parameters, 0)


def plain_step(network: torch.nn.Module, inputs: list[torch.Tensor], device: torch.device) -> Callable[[], None]:
    """One optimizer step of the network on the inputs."""
    optimizer = torch.optim.AdamW([item for item in network.parameters() if item.requires_grad])
    inferer = AutocastInferer(device, True)

    def step() -> None:
        optimizer.zero_grad()
        output = inferer(inputs[0], network, *inputs[1:])
        (output[0] if isinstance(output, tuple) else output).float().square().mean().backward()
        optimizer.step()

    return step


def saved_bytes(step: Callable[[], None]) -> int:
    """The memory that a step keeps from its forward for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def step_seconds(step: Callable[[], None], timed: int = TIMED) -> float:
    """The mean time of some calls of `step` after a warm-up."""
    for _ in range(WARM_UP):
        step()
    wait_for_gpu()
    start = time.perf_counter()
    for _ in range(timed):
        step()
    wait_for_gpu()
    return (time.perf_counter() - start) / timed


def wait_for_gpu() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
