"""clipsift: which image-text pairs should a CLIP be trained on, and was that right?

The one program. It is a console script (``clipsift VERB ...``) and a path that launchers take
(``fabric run --devices 8 clipsift.py VERB ...``, ``torchrun --nproc_per_node 8 clipsift.py VERB ...``).
"""

from __future__ import annotations

import os
import sys

VERBS = {
    "reproduce": "select, train, evaluate, report: the whole pipeline from one config; starts or continues",
    "select": "pool -> features -> score columns -> subset",
    "fit": "train on the subset, filtering the shards on the fly; selects first when there is none",
    "evaluate": "a run, or any open_clip model, on DataComp's tasks",
    "report": "a run as one page",
    "compare": "several runs as a table, with mean and spread over seeds",
    "embed": "pool tars -> features in DataComp's metadata layout, with any open_clip model",
    "subset": "subset files: sizes, overlaps, rank correlations; union, intersect, subtract",
    "explain": "one sample of a run: its scores, ranks, the step that dropped it, caption and picture",
    "reshard": "a subset as new shards, for those who want the copy",
    "target": "features of evaluation sets' train images, for NormSim and VAS to compare with",
    "doctor": "what would fail after hours, found in minutes: takes the arguments of reproduce, and spends nothing",
    "demo": "the whole pipeline on a laptop, on pictures it makes itself",
}

USAGE = """usage: clipsift VERB [--config FILE ...] [--key.sub value ...]

{verbs}

clipsift VERB --help lists a verb's settings. Documentation: docs/ and README.md."""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; exits with status 0 only when everything asked for was done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())))
        return
    if verb not in VERBS:
        sys.exit(f"clipsift: error: no verb is named {verb!r}; there are {', '.join(VERBS)}")
    # Threads that wait for each other by spinning bring a shared CPU to a crawl; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from clipsift_app.verbs import run_verb  # here: the libraries behind it take seconds to import

    sys.exit(run_verb(verb, arguments[1:]))


if __name__ == "__main__":
    main()
