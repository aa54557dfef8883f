"""Score columns: what one is, how they are computed file by file, combined and kept."""
