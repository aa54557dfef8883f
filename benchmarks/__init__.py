"""Programs that time the system beside its alternatives; ``make bench`` runs them all."""
