"""How a network is called in training and validation."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer


def as_float32(output: Any) -> Any:
    """Cast a tensor, or each tensor of a tuple or list, to float32."""
    if isinstance(output, (tuple, list)):
        return type(output)(as_float32(item) for item in output)
    return output.float()


def has_bfloat16(device_type: str) -> bool:
    """Whether a device computes in bfloat16 itself, as GPUs since 2020 and CPUs with AVX512-BF16, AMX or Arm's BF16 do.

    Any other CPU emulates it: on an EPYC 7003 a training step of `label_ldm` then takes 40 times as long as in float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # an old torch does not say
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class AutocastInferer(SimpleInferer):
    """Calls the network in bfloat16 autocast where the device has it, and returns float32.

    Stock `amp=True` of MONAI's engines asks for CUDA autocast and a gradient scaler, so it does nothing on a CPU;
    bfloat16 has float32's range and needs no scaler.

    Args:
        device: device of the network.
        enabled: False computes in float32 on every device.
    """

    def __init__(self, device: torch.device | str, enabled: bool = True) -> None:
        super().__init__()
        self.device_type = torch.device(device).type
        self.enabled = enabled and has_bfloat16(self.device_type)

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.enabled):
            output = super().__call__(inputs, network, *args, **kwargs)
        return as_float32(output)


class ReconstructionInferer(AutocastInferer):
    """Decodes the code of its input, of an `AutoencoderKL` the mean one, and leaves out what else networks return.

    A network wrapped by DistributedDataParallel is unwrapped first.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        autoencoder = getattr(network, "module", network)
        return super().__call__(inputs, getattr(autoencoder, "reconstruct", lambda image: autoencoder(image)[0]))
