"""Feature spaces: what a network, or radiomics, sees in an image."""

from dataclasses import dataclass

CONTENT, TEXTURE = "content", "texture"  # of the segmentation network


@dataclass(frozen=True)
class Space:
    """A space of features: [D] of an image, or [S, D] of its slices; and what a figure in it carries with it."""

    name: str
    network: str
    weights: str | None  # SHA-256; None for features that nothing was trained for
    neighbours: bool = False  # whether copies and the measures of neighbourhoods are looked for in it
    scaled: bool = False  # whether features count in standard deviations from the mean of the real training cases

    @property
    def identity(self) -> dict[str, str | None]:
        return {"network": self.network, "weights": self.weights}

    @property
    def suffix(self) -> str:
        """What the names of its metrics end with; nothing for the first choice of all."""
        return "" if self.name == CONTENT else f", {self.name}"
