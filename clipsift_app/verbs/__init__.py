"""The program's verbs. A verb is one module here with a ``run(arguments)``, and one line of this table.

The table is read before anything else is imported, so this file imports nothing.
"""

VERBS = {
    "reproduce": "select, train, evaluate, report: the whole pipeline from one config; starts or resumes",
    "select": "pool -> features -> score columns -> subset",
    "score": "the score columns of a selection, choosing nothing; by part (--part 3/200) without a process group",
    "fit": "train on the subset, filtering the shards on the fly; selects first when there is none",
    "evaluate": "a run, or any open_clip model, on DataComp's tasks",
    "report": "a run as one page",
    "compare": "several runs as a table, with mean and spread over seeds",
    "embed": "pool tars -> features in DataComp's metadata layout, with any open_clip model",
    "subset": "subset files: sizes, overlaps, rank correlations; union, intersect, subtract",
    "explain": "one sample of a run: its scores, ranks, the step that dropped it, caption and picture",
    "reshard": "a subset as new shards, for those who want the copy",
    "target": "features to compare with: of train images (NormSim, VAS), class prompts (ClipCov), centroids (SemDeDup)",
    "configs": "the configs that come with the program: lists them, or prints one",
    "doctor": "what would fail after hours, found in minutes: takes the arguments of reproduce, and spends nothing",
    "demo": "the whole pipeline on a laptop, on pictures it makes itself",
}
