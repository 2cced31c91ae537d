"""What a packed bundle's README says of its weights."""

from pathlib import Path

from lldm3d.files import read_json, sha256

SECTION = """
## This copy

Holds trained weights, and their settings are the defaults of its configs. Data of your own, prepared in the same way,
go into the folder `dataset` (or `latents`) beside `configs`. Python packages that it needs beside MONAI:
`required_packages_version` in `configs/metadata.json`.

| file | SHA-256 of the checkpoint |
|---|---|
"""


def readme_section(checkpoints: dict[str, Path], names: dict[str, str], remark: str) -> str:
    """Markdown for the end of the README of a bundle with weights; `names` are those of the files in `models/`."""
    rows = "".join(f"| `models/{names[key]}` | `{sha256(path)}` |\n" for key, path in checkpoints.items())
    return SECTION + rows + (f"\n{remark}\n" if remark else "")


def copies_remark(work: Path) -> str:
    """How near the synthetic cases of a chain come to its patients: what to know before its models are shared."""
    metrics = work / "evaluation/metrics.json"
    rows = read_json(metrics)["rows"] if metrics.is_file() else []
    found = next((row for row in rows if row["name"] == "share of near copies" and row["value"] is not None), None)
    if found is None:
        return (
            "**Copies of patients: not measured.** Models learnt from few patients can repeat them: before you "
            "share them, run `lldm3d evaluate --max_copies` on pairs drawn with them."
        )
    return (
        f"**Copies of patients:** of {found['n']} pairs drawn with these models, {found['value']:.1%} lie nearer to a "
        "training case than half the distance of any held-out case (`lldm3d evaluate`)."
    )
