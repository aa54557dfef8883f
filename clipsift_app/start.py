"""The start of a run: settings checked, processes launched, the resolved config saved, the start noted."""

from __future__ import annotations

from dataclasses import replace

from clipsift_app.parsing import parse_run
from clipsift_app.provenance import begin
from clipsift_app.settings import RunSettings
from clipsift_common.distributed import on_rank_zero, world_size
from clipsift_common.engines.alone import launch_alone
from clipsift_common.engines.base import Part
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from training.data import check_world


def start(verb: str, arguments: list[str]) -> RunSettings:
    """The run that ``verb`` (``reproduce``, ``fit``, ``select``, ``score``) is asked for, on the processes it wants."""
    trains = verb not in ("select", "score")
    run = parse_run(arguments, needs_eval=verb == "reproduce", trains=trains)
    if run.engine == "ray" and trains:
        raise ClipsiftError(f"engine: ray embeds and scores, and {verb} trains, too; say clipsift select --engine ray")
    alone = run.engine == "ray"
    run = replace(run, machine=launch_alone(run.machine, "engine: ray", True) if alone else launch(run.machine))
    if trains:
        check_world(run.data["global_batch"], world_size())
    hold(run.out)
    on_rank_zero(lambda: begin(run, verb, arguments))
    return run


def start_part(arguments: list[str], part: Part) -> RunSettings:
    """The run of which this process is to score a part; beside others that do so, and not noted in its records."""
    run = parse_run(arguments, needs_eval=False, trains=False)
    if run.engine == "ray":
        raise ClipsiftError(f"score: --part {part} and --engine ray contradict each other; leave one out")
    run = replace(run, machine=launch_alone(run.machine, "--part"))
    hold(run.out, shared=True)
    return run
