"""Are the evaluation sets all there?"""

from __future__ import annotations

from pathlib import Path

from clipsift_app.doctor.finding import Finding, shorten_list
from clipsift_app.settings import RunSettings
from evaluation.data.layout import check
from evaluation.tasks import select_tasks


def check_evaluation(run: RunSettings) -> Finding:
    """The folders of the tasks asked for; of all that count towards the average when none are named."""
    if not run.eval or not Path(run.eval).is_dir():
        text = f"{run.eval} does not exist" if run.eval else "--eval is missing"
        return Finding("evaluation", "fail", text, "clipsift evaluate --download --data DIR, then --eval DIR")
    tasks = select_tasks(run.evaluation.tasks or ["*"])
    wanted = tasks if run.evaluation.tasks else [task for task in tasks if task.is_scored]
    problems = check(run.eval, wanted)
    if not problems:
        return Finding("evaluation", "ok", f"{len(wanted)} tasks complete")
    remedy = f"clipsift evaluate --download --data {run.eval}, or name the tasks you have: --evaluation.tasks"
    return Finding("evaluation", "fail", shorten_list(problems), remedy)
