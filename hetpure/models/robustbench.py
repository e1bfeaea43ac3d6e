"""RobustBench's model zoo as classifiers, through the package of that name (the extra ``robustbench``).

    classifier:
      name: hetpure.models.robustbench:zoo_entry
      arguments: {model: Standard, dataset: cifar10, threat_model: Linf}

The layouts that the paper's tables need load without the package (``wrn28_10``, ``dm_wrn70_16``, ...).
"""

import importlib
import sys
from typing import Any

from torch import nn

from hetpure.errors import AbsentError, require


def zoo_entry(
    model: str, dataset: str = "cifar10", threat_model: str = "Linf", model_dir: str = "checkpoints/public"
) -> nn.Module:
    """An entry with its weights; its normalisation, where it has one, is inside: images in [0, 1] to logits.

    Args:
        model: name of the entry.
        dataset: ``cifar10``, ``cifar100`` or ``imagenet``.
        threat_model: ``Linf``, ``L2`` or ``corruptions``.
        model_dir: folder of its file, ``DATASET/THREAT/MODEL.pt``, and of downloads.

    Raises:
        AbsentError: without the package.
        ConfigError: for an entry that it does not know.
    """
    try:
        # RobustBench's release asks for the package pyautoattack and imports it by its old name.
        sys.modules.setdefault("autoattack", importlib.import_module("pyautoattack"))
        utils: Any = importlib.import_module("robustbench.utils")
        models: Any = importlib.import_module("robustbench.model_zoo").model_dicts
    except ImportError as error:
        needs = f"{model} needs the package robustbench: pip install 'hetpure[robustbench]' ({error})"
        raise AbsentError("model", needs) from None
    known = {d.value: {t.value: zoo for t, zoo in threats.items()} for d, threats in models.items()}
    for key, value, accepted in (
        ("dataset", dataset, known),
        ("threat_model", threat_model, known.get(dataset, {})),
        ("model", model, known.get(dataset, {}).get(threat_model, {})),
    ):
        require(value in accepted, key, value, ", ".join(accepted))
    return utils.load_model(model_name=model, model_dir=model_dir, dataset=dataset, threat_model=threat_model)
