"""The beat of an evaluation's work: every network call says that work goes on, and hears whether it should.

Two faults are otherwise silent. A process that hangs but lives still shows signs of life, since another thread of it
gives them: so the work itself tells the watch that it moves (``Watch.moved``). And Python drops a Ctrl-C that is raised
in a finaliser, where nothing can hear it: so the press is noted too, and raised again at the next beat.
"""

import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from hetpure.attacks.base import Observer
from hetpure.attacks.gradients import Gradient
from hetpure.defense.finite import Guarded
from hetpure.evaluation.process_monitor import Watch
from hetpure.models.classifiers import Classifier
from hetpure.purification.network import NetworkPurifier


class Pulse(Callback):
    """Beats at every network call, attack iteration and batch of a row.

    Args:
        watch: told that work moves; None where nobody watches.
        modules: whose classifiers, guarded denoisers and purifiers' own networks beat.
    """

    def __init__(self, watch: Watch | None, modules: Iterable[nn.Module]) -> None:
        self.watch = watch
        found = {id(part): part for module in modules for part in module.modules()}
        networks: list[nn.Module] = [part for part in found.values() if isinstance(part, Guarded | Classifier)]
        networks += [part.network for part in found.values() if isinstance(part, NetworkPurifier)]
        self._networks = list({id(network): network for network in networks}.values())
        self._handles: list[Any] = []
        self._pressed = False

    def beat(self, *_: Any) -> None:
        """Work goes on.

        Raises:
            KeyboardInterrupt: where Ctrl-C was pressed and not heard.
        """
        if self.watch is not None:
            self.watch.moved()
        if self._pressed:
            raise KeyboardInterrupt

    def before(self, observe: Observer) -> Observer:
        """An attack's observer, after a beat."""

        def both(iteration: int, found: Gradient) -> None:
            self.beat()
            observe(iteration, found)

        return both

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Listens to the networks, and to Ctrl-C where Python's own handler does."""
        self._handles = [network.register_forward_pre_hook(self.beat) for network in self._networks]
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._press)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.beat()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """A beat, once the batch's records are written."""
        self.beat()

    def on_test_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """From here on this process may wait for others."""
        self._rest()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Leaves the networks, and Ctrl-C, as they were."""
        self._leave()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Likewise: Lightning tears no callback down then."""
        self._leave()

    def _leave(self) -> None:
        self._rest()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if signal.getsignal(signal.SIGINT) == self._press:  # Lightning ignores further presses while it shuts down
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _rest(self) -> None:
        if self.watch is not None:
            self.watch.rest()

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        signal.default_int_handler(number, frame)
