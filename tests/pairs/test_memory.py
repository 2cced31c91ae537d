"""Estimates of memory beside what the operating system measures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.pairs import untrained

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarDistances
from lldm3d.diffusion.networks import LabelDiffusion
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.errors import UserError
from lldm3d.pairs.cases import CaseDataset
from lldm3d.pairs.memory import GB, estimate, fit_memory
from lldm3d.pairs.sampling import Generation, LatentSampler
from lldm3d.pairs.sizes import ClassSizes

ROOT = Path(__file__).parents[2]  # where `benchmarks` lies
SCRIPT = """
import sys
import torch
from benchmarks.pairs import batch, untrained
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.training.handlers import peak_memory
from lldm3d.pairs.memory import estimate, weights
torch.set_num_threads(1)
generation = untrained("demo", (64, 64, 48), RectifiedFlow(1), "cpu")
generation.in_slabs = sys.argv[1] == "slabs"
expected = estimate(generation, 1, (64, 64, 48), generation.in_slabs) - weights(generation)
# getrusage would begin with the peak of the process that started this one
before = peak_memory(torch.device("cpu"))
generation(None, batch(0))
print("ratio", expected / (peak_memory(torch.device("cpu")) - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted in other units")
@pytest.mark.parametrize("decoding", ["whole", "slabs"])
def test_an_estimate_is_a_little_more_than_the_measured_peak(decoding):
    command = [sys.executable, "-c", SCRIPT, decoding]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    ratio = float(re.search(r"ratio (\S+)", done.stdout)[1])
    assert 0.9 < ratio < 2


@pytest.mark.slow
def test_a_budget_lowers_the_batch_and_then_decodes_in_slabs(tmp_path):
    size = (64, 64, 48)  # large beside the latents of stride 4, so that decoding takes the most
    generation = untrained("benchmarks/sampling.yaml", size, RectifiedFlow(1), "cpu")
    dataset = CaseDataset(8, str(tmp_path), generation.label.codec.class_names, [1, 1, 1])
    one, eight = (estimate(generation, number, size, False) / GB for number in (1, 8))
    slabs = estimate(generation, 1, size, True) / GB
    assert slabs < one < eight
    assert fit_memory(generation, dataset, 8) == 8  # no limit on a CPU
    assert 1 <= fit_memory(generation, dataset, 8, (one + eight) / 2) < 8 and not generation.in_slabs
    assert fit_memory(generation, dataset, 8, (slabs + one) / 2) >= 1 and generation.in_slabs
    with pytest.raises(UserError, match=rf"64, 64, 48.*about {slabs:.2f} GB.*0\.05"):
        fit_memory(generation, dataset, 8, 0.05)


def test_a_network_that_is_told_sizes_is_estimated_with_them(tmp_path):
    bands = HaarDistances(channels=3)
    codec = Codec(bands, "label", ["background", "liver", "HCC"], torch.zeros(24), torch.ones(24)).eval()
    small = {"channels": [16, 32], "attention_levels": [False, False], "num_res_blocks": 1, "norm_num_groups": 8}
    network = LabelDiffusion(True, 2, spatial_dims=3, in_channels=24, out_channels=24, **small).eval()
    sizes = ClassSizes([[10.0, 0.0], [12.0, 5.0]], {1: 0, 2: 1})
    generation = Generation(LatentSampler(codec, network, RectifiedFlow(1), [24, 8, 8, 8], sizes=sizes))
    dataset = CaseDataset(8, str(tmp_path), codec.class_names, [1, 1, 1])
    one, eight = (estimate(generation, number, (16, 16, 16), False) / GB for number in (1, 8))
    assert one < eight and fit_memory(generation, dataset, 8, (one + eight) / 2) < 8


def test_of_several_processes_the_first_alone_says_what_was_chosen(tmp_path, capsys):
    generation = untrained("benchmarks/sampling.yaml", (32, 32, 16), RectifiedFlow(1), "cpu")
    said = []
    for rank in (0, 1):
        part = CaseDataset(8, str(tmp_path), generation.label.codec.class_names, [1, 1, 1], part=(rank, 2))
        fit_memory(generation, part, 4, 8)
        said.append(capsys.readouterr().out)
    assert "4 cases at once, decoded whole" in said[0] and said[1] == ""
