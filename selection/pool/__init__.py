"""A pool on disk or elsewhere: where its shards and metadata lie, its index."""
