"""What the trainings of a run and its pairs take, from steps of their networks on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch.autograd.graph import saved_tensors_hooks

from lldm3d.bundle import bundle_path
from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.diffusion.networks import ControlledDiffusion
from lldm3d.pipeline.configs import BUNDLES, bundle_and_configs, overrides_of, processes_of
from lldm3d.pipeline.limits import keep_limits
from lldm3d.pipeline.study_cost import COPIES, step_seconds
from lldm3d.pipeline.training import crop
from lldm3d.training.inferers import AutocastInferer

BASE = 0.7  # GB of a process of torch and MONAI that holds nothing yet
FLOATS = 5  # of each weight in memory: itself, gradient, two moments of Adam, average
START = 10  # seconds until a stage's process takes its first step
BACKWARD = 2  # of the time of a forward pass


@dataclass(frozen=True)
class Cost:
    """Of one training stage."""

    steps: int
    step_seconds: float
    batch_size: int
    memory: float  # GB
    disk: float  # GB

    @property
    def minutes(self) -> float:
        return (START + self.steps * self.step_seconds) / 60

    @property
    def forward_seconds(self) -> float:
        """Of one case."""
        return self.step_seconds / self.batch_size / (1 + BACKWARD)


def tell_cost(work: Path, plan: dict, stages: list[str]) -> None:
    """Print what the generative stages among `stages` take, and note it for a cluster's jobs.

    Nothing where the data set is not prepared.
    """
    if not (work / "dataset" / "dataset.json").is_file() or not {*BUNDLES, "generate"} & {*stages}:
        return
    torch.set_num_threads(plan["threads"])
    settings, schema = plan["settings"], load_schema(work / "dataset")
    costs = {stage: measure(stage, settings, schema) for stage in BUNDLES}
    minutes = {stage: cost.minutes for stage, cost in costs.items()}
    for stage in stages:
        if stage in costs:
            cost = costs[stage]
            print(
                f"{stage}: {cost.steps} steps at {cost.step_seconds:.3g} s, {cost.minutes:.3g} minutes; "
                f"{cost.memory:.2g} GB of memory, {cost.disk:.2g} GB of disk"
            )
    if "generate" in stages:
        seconds = pair_seconds(costs, settings["generate"], schema, settings)
        print(f"generate: {seconds:.3g} s for each pair")
        pairs = settings["generate"].get("n") or len(load_cases(work / "dataset", "training"))
        minutes["generate"] = pairs * seconds / 60 / processes_of(settings["generate"])
    keep_limits(work, settings, minutes)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU with {plan['threads']} threads"
    print(f"from steps on this {where}; without loading, validation, and the further losses of autoencoders")


def measure(stage: str, settings: dict, schema: Schema) -> Cost:
    """The cost of a training stage, from some of its steps on random volumes."""
    parser = parsed(stage, settings, schema)
    network, inputs = network_and_inputs(stage, settings, schema)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = plain_step(network.to(device), [item.to(device) for item in inputs], device)
    saved = saved_bytes(step)
    parameters = sum(item.numel() for item in network.parameters())
    seconds, minutes = step_seconds(step), settings[stage].get("minutes")
    steps = parser.get_parsed_content("epochs") * parser.get_parsed_content("epoch_length")
    return Cost(
        steps=round(60 * minutes / seconds) if minutes else steps,
        step_seconds=seconds,
        batch_size=len(inputs[0]),
        memory=(BASE + (saved + 4 * FLOATS * parameters) / 1e9) * processes_of(settings[stage]),
        disk=4 * COPIES * parameters / 1e9,
    )


def parsed(stage: str, settings: dict, schema: Schema) -> ConfigParser:
    """The config of a training stage, with what its profile and the stages before it say of the network."""
    bundle, configs = bundle_and_configs(stage, settings[stage])
    parser = ConfigParser()
    parser.read_config([str(bundle_path(bundle) / config) for config in configs])
    parser.update({"class_names": list(schema.class_names), **overrides_of(settings[stage])})
    if not stage.startswith("autoencoder"):
        codec = parsed(f"autoencoder_{kind(stage)}", settings, schema)
        parser.update({"latent_channels": codec.get_parsed_content("latent_channels")})
    if stage == "controlnet":
        image = parsed("image_ldm", settings, schema)
        repeated = ("channels", "attention_levels", "num_res_blocks")
        parser.update({key: image.get_parsed_content(key) for key in repeated})
    return parser


def kind(stage: str) -> str:
    return "label" if "label" in stage else "image"


def network_and_inputs(stage: str, settings: dict, schema: Schema) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """The network of a training stage and a random batch of what it is called with."""
    parser = parsed(stage, settings, schema)
    network, batch = (parser.get_parsed_content(key) for key in ("network_def", "batch_size"))
    if stage.startswith("autoencoder"):
        channels = len(schema.class_names) if kind(stage) == "label" else 1
        return network, [torch.rand(batch, channels, *crop(overrides_of(settings[stage]), schema))]
    codec = parsed(f"autoencoder_{kind(stage)}", settings, schema)
    stride = 2 ** (len(codec.get_parsed_content("channels")) - 1)
    latent = torch.randn(
        batch, codec.get_parsed_content("latent_channels"), *(size // stride for size in schema.roi_size)
    )
    inputs = [latent, torch.zeros(batch)]
    if stage == "controlnet":
        frozen, _ = network_and_inputs("image_ldm", settings, schema)
        network = ControlledDiffusion(frozen, network)
        inputs.append(torch.rand(batch, len(schema.class_names), *schema.roi_size))
    return network, inputs


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


def pair_seconds(costs: dict[str, Cost], section: dict, schema: Schema, settings: dict) -> float:
    """Of drawing a label and an image, and decoding both (half of an autoencoder's forward pass, on whole cases)."""
    guided = 2 if section.get("guidance_scale", 1) != 1 else 1
    calls = costs["label_ldm"].forward_seconds + guided * costs["controlnet"].forward_seconds
    decoding = 0.0
    for stage in ("autoencoder_image", "autoencoder_label"):
        window = torch.Size(crop(overrides_of(settings[stage]), schema)).numel()
        decoding += costs[stage].forward_seconds / 2 * torch.Size(schema.roi_size).numel() / window
    return section.get("num_inference_steps", 20) * calls + decoding
