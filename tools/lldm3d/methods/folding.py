"""Inputs of MAISI's networks that are the same for a whole data set, as a part of the weights."""

import torch
from torch import nn
from torch.nn.functional import silu


@torch.no_grad()
def fold_inputs(network: nn.Module, fixed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of `network` without those that embed the inputs `fixed`; all else being equal, so are the outputs.

    A class's embedding is added to that of the time: to the bias of its last layer. The spacing's embedding e lies
    beside it, and each block takes W [SiLU(t), SiLU(e)] + b of both: the columns for e, times SiLU(e), join b.

    Args:
        network: MAISI's, or one with `num_class_embeds`.
        fixed: `class_labels` [1] and `spacing_tensor` [1, 3], as its `forward` takes them.
    """
    weights = dict(network.state_dict())
    if "class_labels" in fixed:
        classes = weights.pop("class_embedding.weight")
        weights["time_embed.2.bias"] = weights["time_embed.2.bias"] + classes[fixed["class_labels"][0]]
    if "spacing_tensor" in fixed:
        beside = silu(network.spacing_layer(fixed["spacing_tensor"]))[0]
        weights = {name: value for name, value in weights.items() if not name.startswith("spacing_layer.")}
        for name in [name for name in weights if name.endswith(".time_emb_proj.weight")]:
            both, bias = weights[name], name.replace("weight", "bias")
            width = both.shape[1] - len(beside)
            weights[name], weights[bias] = both[:, :width], weights[bias] + both[:, width:] @ beside
    return weights
