"""What others can use: bundles as zips, data for other programs."""

from lldm3d.commands.call import call


def pack(
    output_dir: str,
    workdir: str | None = None,
    stages: tuple[str, ...] | str | None = None,
    bundle: str | None = None,
    weights: str | None = None,
    url: str = "https://github.com/Project-MONAI/model-zoo/releases/download/hosting_storage_v1",
    overwrite: bool = False,
) -> None:
    """Write bundles as zips that others run with MONAI alone, and their entries of the Model Zoo's model_info.json.

    Args:
        output_dir: folder for the zips.
        workdir: a chain's work directory: pack what it trained, its settings as defaults.
        stages: stages of it, or how their names begin, separated by commas; default: the generative ones, and the
            segmentations of the first seed.
        bundle: instead, this bundle; default: all, without weights.
        weights: its weights; settings are read from an overrides.yaml beside them.
        url: address at which the zips will lie, for model_info.json.
        overwrite: replace zips of the same version.
    """
    call("lldm3d.export.package", "pack", locals())


def export(
    real: str,
    output_dir: str,
    synthetic: str | None = None,
    regime: str = "R",
    task: str = "multi",
    format: str = "decathlon",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the real and synthetic cases of a regime for another program; validation and test cases are real always.

    Args:
        real: prepared data set.
        output_dir: the new folder; for nnunet its name is Dataset<three digits>_<Name>.
        synthetic: data set of synthetic pairs, for regimes with S.
        regime: R, S, R+S, 0.1R+S ...
        task: which classes the network tells apart; one that the data set declares (`lldm3d tasks`).
        format: decathlon (dataset.json with absolute paths, for the segmentation bundles and MONAI), nnunet (v2 raw,
            with copies of the files), or auto3dseg (a list, and the input.yaml of MONAI's AutoRunner).
        seed: of the choice of patients and pairs.
        overwrite: replace an earlier export.
    """
    call("lldm3d.export.write", "export", locals())
