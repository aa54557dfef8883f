"""From kept rows to batches: the order of samples, reading, decoding, the memory batches lie in."""
