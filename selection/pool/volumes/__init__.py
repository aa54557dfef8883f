"""The index on disk: volumes of rows, which of them make a pool, what repeats, what is kept."""
