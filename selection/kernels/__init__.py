"""Pure arithmetic on tensors in bounded memory: tiles, moments, k-means, log-sum-exps."""
