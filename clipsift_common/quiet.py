"""What other libraries say about things that we have arranged on purpose."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Silence it, for this process."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*Couldn't infer the batch indices.*",
        ".*predict_dataloader.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
        ".*no CUDA runtime is found.*",
        ".*torch.distributed.nn.functional.all_gather is deprecated.*",
        ".*Grad strides do not match bucket view strides.*",
        ".*Total length of `list` across ranks is zero.*",
        ".*WeightAveraging callback with a model that overrides the configure_model.*",  # it does nothing without FSDP
        ".*LightningCLI's args parameter is intended.*",
    ):
        warnings.filterwarnings("ignore", message)
