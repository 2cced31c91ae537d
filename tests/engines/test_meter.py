import json
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from lldm3d.training.handlers import Meter


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell the peak")
def test_drawn_volumes_their_seconds_and_memory_are_told(tmp_path):
    def draw(engine, names):
        block = torch.ones(50, 1000, 1000)  # 0.2 GB, free again at once
        return {"name": names, "sum": block.sum()}

    engine = Engine(draw)
    Meter(tmp_path / "cost.json", [torch.nn.Linear(3, 2)], "cpu").attach(engine)
    torch.ones(200, 1000, 1000)  # 0.8 GB, before it counts
    status = Path("/proc/self/status").read_text()
    held = 1024 * int(status.split("VmRSS:")[1].split()[0]) / 1e9  # by the tests before
    engine.run([["a", "b"], ["c"]], max_epochs=1)
    found = json.loads((tmp_path / "cost.json").read_text())
    assert (found["volumes"], found["batch_size"], found["parameters"], found["device"]) == (3, 2, 8, "CPU")
    # the 0.2 GB, or nothing where the allocator had kept them from the tests before
    assert 0 < found["seconds"] < 60 and -0.01 <= found["memory_gb"] - held < 0.5
