"""Crops first, whole volumes in the end."""

from ignite.engine import Engine, Events
from monai.transforms import Compose


class WholeVolumes:
    """Handler that leaves out the last transform, the random crop, from an epoch on.

    A crop's group normalisation and zero padding are not those of the whole volume that a codec encodes; crops are
    faster, and the last epochs mend the difference. With loader workers they must not be persistent.

    Args:
        preprocessing: transforms of the training data set; the last one crops.
        crop_epochs: epochs with crops.
    """

    def __init__(self, preprocessing: Compose, crop_epochs: int) -> None:
        self.preprocessing, self.crop_epochs = preprocessing, crop_epochs
        self.transforms = preprocessing.transforms

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.choose)

    def choose(self, engine: Engine) -> None:
        whole = engine.state.epoch > self.crop_epochs
        self.preprocessing.transforms = self.transforms[:-1] if whole else self.transforms
