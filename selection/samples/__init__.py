"""The samples in a tar: which members make one, and where they lie."""
