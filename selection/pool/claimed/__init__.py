"""Remote shards known by what a file beside them says: which samples they hold; where those lie, once they are here."""
