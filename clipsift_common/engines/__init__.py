"""Who does a step's units of work: the ranks of this launch, one part of so many, or a Ray cluster's workers."""
