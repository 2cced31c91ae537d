"""Synthetic pairs: drawn, joined, judged."""

from lldm3d.commands.call import call


def generate(
    workdir: str,
    output_dir: str,
    n: int = 1,
    label: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    num_inference_steps: int = 20,
    solver: str = "euler",
    time_shift: float = 1.0,
    guidance_scale: float = 1.0,
    memory_gb: float | None = None,
    overlays: tuple[str, ...] = (),
    overwrite: bool = False,
    first: int = 0,
    processes: int = 1,
) -> None:
    """Draw pairs of image and label with the models of a work directory; an interrupted call goes on.

    Args:
        workdir: a finished chain.
        output_dir: folder for the pairs.
        n: number of pairs with drawn labels.
        label: a NIfTI label map of your own (or several, separated by commas), instead of drawn ones.
        seed: of all cases.
        batch_size: cases drawn at once, at most.
        num_inference_steps: steps of the sampler.
        solver: euler, or heun (two calls of the network a step); for rectified flow.
        time_shift: above 1 steps are shorter near the noise and longer near the end; for rectified flow.
        guidance_scale: guidance on the label, 1 for none.
        memory_gb: budget in GB, by which fewer cases are drawn at once and decoded in slabs; default: what is free on
            the GPU, no limit on a CPU.
        overlays: further configs of the ControlNet bundle, such as ddpm.yaml.
        overwrite: replace pairs that were generated with other settings or checkpoints.
        first: the first of the n pairs, so that several calls share a large number (docs/scaling.md).
        processes: on this machine, that share the pairs, each with a GPU of its own if there are any.
    """
    call("lldm3d.pairs.generate", "generate", locals())


def join(parts: str, output_dir: str, overwrite: bool = False) -> None:
    """Make one data set of pairs that several calls of `lldm3d generate` drew, each into a folder of its own.

    Args:
        parts: pattern of the folders, as 'pairs/part_*'; they stay where they are.
        output_dir: folder for dataset.json and manifest.json.
        overwrite: replace them.
    """
    call("lldm3d.pairs.generate", "join", locals())


def evaluate(
    real: str,
    synthetic: str,
    output_dir: str,
    segmenter: str | None = None,
    medicalnet: str | None = None,
    radimagenet: str | None = None,
    radiomics: bool = False,
    segmenter_command: str | None = None,
    max_copies: float | None = None,
    cache_dir: str | None = None,
    overwrite: bool = False,
) -> None:
    """Judge a synthetic data set against the real one: quality, alignment with the labels, copies of patients.

    Args:
        real: prepared data set, or any folder of scans.
        synthetic: generated data set, or any folder of scans on the same grid.
        output_dir: folder of the results.
        segmenter: folder of a segmentation stage trained on `real` alone (regime R).
        medicalnet: weights of a MedicalNet ResNet (its .pth file), for FID and KID as others report them.
        radimagenet: weights of RadImageNet's ResNet-50, for FID and KID in slices of each plane.
        radiomics: also compare radiomic features; needs the extra `radiomics`.
        segmenter_command: a further segmenter, such as 'nnUNetv2_predict -i {images} -o {labels} ...'.
        max_copies: largest share of near copies of training cases; above it the command exits with status 3.
        cache_dir: where findings of each case are kept, for all evaluations of the same data; default: in output_dir.
        overwrite: replace results that are there.
    """
    call("lldm3d.evaluation.evaluate", "evaluate", locals())
