"""The parser of a run's settings: LightningCLI's, with the keys of every stage."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from clipsift_app.config_checks import check_config_files
from clipsift_app.settings import Checkpoint, Evaluation
from clipsift_app.validation import Validation
from clipsift_common.engines.base import EngineName
from clipsift_common.errors import ClipsiftError
from selection.samples.fields import Fields
from selection.settings import Selection
from training.data import PoolDataModule
from training.guard import MAX_SKIPPED
from training.model import CLIPModule
from training.online import Online


class RunCLI(LightningCLI):
    """LightningCLI's parser for a whole run; parses and checks, and leaves making things to the stages.

    ``trains``: whether the run needs a model and its data; without, their keys may be missing.
    """

    def __init__(self, arguments: list[str], trains: bool = True) -> None:
        self.trains = trains
        super().__init__(
            CLIPModule,
            PoolDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--include", type=list[str], default=[], help="Config files that come before this one.")
        parser.add_argument("--name", type=str | None, default=None, help="What the run is called in tables.")
        parser.add_argument("--published", type=str | None, default=None, help="Row of published.yaml; default: name.")
        parser.add_argument("--pool", type=str, help="Shards, metadata: a folder, glob, brace range or fsspec URL.")
        parser.add_argument("--fields", type=Fields, default=Fields(), help="Which members of a tar make a sample.")
        parser.add_argument("--trusted", type=str | None, default=None, help="Shards of pairs known to be good.")
        parser.add_argument("--eval", type=str | None, default=None, help="Folder of evaluation sets (DataComp's).")
        parser.add_argument("--out", type=str, help="The run directory.")
        parser.add_argument("--cache", type=str | None, default=None, help="Index and features; default OUT/cache.")
        parser.add_argument("--truth", type=str | None, default=None, help="Parquet of uid and kind, for the report.")
        parser.add_argument("--hub", type=str | None, default=None, help="USER/NAME on the Hub to push the model to.")
        parser.add_argument("--max_loss", type=float, default=0.01, help="Share of samples that may be damaged.")
        parser.add_argument(
            "--max_skipped", type=int, default=MAX_SKIPPED, help="Updates in 1,000 that may be not finite, and skipped."
        )
        parser.add_argument(
            "--engine", type=EngineName, default="group", help="Who embeds and scores: this launch's processes, or ray."
        )
        parser.add_argument("--selection", type=Selection, default=Selection(), help="Which pairs are kept.")
        parser.add_argument("--online", type=Online | None, default=None, help="Keep the best of each super-batch.")
        parser.add_argument("--evaluation", type=Evaluation, default=Evaluation(), help="Which tasks, by which rules.")
        parser.add_argument("--validation", type=Validation, default=Validation(), help="Tasks scored during training.")
        parser.add_argument("--checkpoint", type=Checkpoint, default=Checkpoint(), help="How often training saves.")
        for source, target in (
            ("pool", "data.pool"),
            ("fields", "data.fields"),
            ("out", "data.out"),
            ("cache", "data.cache"),
            ("max_loss", "data.max_loss"),
            ("seed_everything", "data.seed"),
            ("seed_everything", "model.seed"),
            *([("model.model", "data.model")] if self.trains else ()),
        ):
            parser.link_arguments(source, target)
        if not self.trains:
            for action in parser._actions:
                if action.dest.startswith(("model.", "data.")):
                    action.required = False

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Look at the config files alone first, for what the parser would let pass."""
        check_config_files(args, parser)
        super().parse_arguments(parser, args)
        seed = int(self.config["seed_everything"])
        if not 0 <= seed < 2**32:
            raise ClipsiftError(f"seed_everything: is a number from 0 to {2**32 - 1}, got {seed}")

    def instantiate_classes(self) -> None:
        """Left to the stages: a wrong setting must fail before anything is made."""


def one_line(error: BaseException) -> str:
    """All of a parser's message, whose cause stands in its last lines, as one line."""
    cause = error.__cause__
    while cause is not None:  # a dataclass's own check, wrapped by the parser
        if isinstance(cause, ClipsiftError):
            return str(cause)
        cause = cause.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def make_trainer_options(options: dict[str, Any]) -> dict[str, Any]:
    """The ``trainer`` settings with their ``class_path``s (logger, callbacks, plugins, profiler) as objects.

    Raises:
        ClipsiftError: for one that cannot be made, such as a logger whose library is not installed.
    """
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    try:
        made = parser.instantiate_classes(parser.parse_object({"trainer": options})).trainer
    except Exception as error:  # a class of anybody's
        raise ClipsiftError(f"trainer: {one_line(error)}") from error
    return {key: made[key] for key in options}
