"""What a training step of each segmentation bundle costs on one core.

    taskset -c 0 python -m benchmarks.networks

Prints JSON: parameters, and seconds of processor time of a step in float32 (the middle of three, after a first one), on
a batch of 2 crops of 32x48x32 voxels, padded to what the network takes.
"""

import json
import time

import fire
import torch
from monai.bundle import ConfigParser

from benchmarks.machine import describe
from lldm3d.bundle import bundle_names, bundle_path

CROP, BATCH = (32, 48, 32), 2


def cost(bundle: str) -> dict:
    """{"parameters", "window" in voxels, "seconds" for a step} of a bundle's network."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle_path(bundle) / "configs/train.yaml"))
    parser.update({"roi_size": list(CROP), "device": "$torch.device('cpu')"})
    network, loss, optimizer, window = map(parser.get_parsed_content, ("network", "loss", "optimizer", "window"))
    image, label = torch.rand(BATCH, 1, *window), torch.randint(0, 5, (BATCH, 1, *window))
    seconds = []
    for _ in range(4):
        start = time.process_time()
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    parameters = sum(weight.numel() for weight in network.parameters())
    return {"parameters": parameters, "window": window, "seconds": round(sorted(seconds[1:])[1], 3)}


def main() -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    networks = {name: cost(name) for name in bundle_names() if name.startswith("seg_")}
    print(json.dumps({"networks": networks, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
