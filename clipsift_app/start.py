"""The start of a run: settings checked, processes launched, the resolved config saved, the start noted."""

from __future__ import annotations

from dataclasses import replace

from clipsift_app.parsing import parse_run
from clipsift_app.provenance import begin
from clipsift_app.settings import RunSettings
from clipsift_common.distributed import on_rank_zero, world_size
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from training.data import check_world


def start(verb: str, arguments: list[str]) -> RunSettings:
    """The run that ``verb`` (``reproduce``, ``fit`` or ``select``) is asked for, on the processes it asks for."""
    trains = verb != "select"
    run = parse_run(arguments, needs_eval=verb == "reproduce", trains=trains)
    run = replace(run, machine=launch(run.machine))
    if trains:
        check_world(run.data["global_batch"], world_size())
    hold(run.out)
    on_rank_zero(lambda: begin(run, verb, arguments))
    return run
