"""The stage `segment/<network>/<regime>/seed_<k>`: train a segmentation network, then test it on real cases."""

from pathlib import Path


def segment(work: Path, stage: str, settings: dict) -> None:
    raise NotImplementedError
