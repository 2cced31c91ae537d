"""That a diffusion model belongs to the very autoencoder whose latents it learnt."""

from lldm3d.errors import UserError
from lldm3d.files import sha256


class Belonging:
    """The autoencoder's file by its hash: in the training's state, in the trained model, and compared when it draws.

    An object of `TrainingState`, so that a training does not go on with the latents of another autoencoder.

    Args:
        autoencoder_path: `model.pt` of the autoencoder; it is read at once.

    Raises:
        UserError: where there is no such file.
    """

    def __init__(self, autoencoder_path: str) -> None:
        self.path = autoencoder_path
        try:
            self.sha256 = sha256(autoencoder_path)
        except OSError as error:
            raise UserError(
                f"autoencoder_path {autoencoder_path}: cannot be read ({error.strerror}); train the autoencoder first"
            ) from None

    def state_dict(self) -> dict[str, str]:
        return {"autoencoder": self.sha256}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state != self.state_dict():
            raise ValueError(f"it learnt the latents of another autoencoder than {self.path}")

    def checked(self, checkpoint: dict, path: str) -> dict:
        """The checkpoint of `path` itself. Raises UserError where it was trained on another autoencoder, or none."""
        found = checkpoint.get("autoencoder")
        if found != self.sha256:
            other = f"another autoencoder ({found[:12]})" if found else "an autoencoder that it does not name"
            raise UserError(
                f"{path}: was trained on the latents of {other}, but {self.path} is {self.sha256[:12]}; delete the "
                "diffusion's folder and train it again, or give the autoencoder_path that belongs to it"
            )
        return checkpoint
