"""One progress bar for a whole training."""

from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from tqdm import tqdm


class ProgressBar:
    """Handler with one bar over all iterations of all epochs; ignite's `ProgressBar` begins a new one each epoch.

    Args:
        description: text before the bar.
        disable: True on all ranks but the first.
    """

    def __init__(self, description: str, disable: bool = False) -> None:
        self.description, self.disable = description, disable
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Engine) -> None:
        if self.bar is None:
            total = engine.state.max_epochs * (engine.state.epoch_length or 0)
            self.bar = tqdm(
                total=total or None,
                initial=engine.state.iteration,
                desc=self.description,
                disable=self.disable,
                mininterval=1,
                dynamic_ncols=True,
            )

    def update(self, engine: Engine) -> None:
        output = engine.state.output
        output = output[0] if isinstance(output, list) else output
        if engine.state.iteration % 10 == 0 and CommonKeys.LOSS in output:
            self.bar.set_postfix(loss=f"{output[CommonKeys.LOSS].item():.4f}", refresh=False)
        self.bar.update()

    def close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
