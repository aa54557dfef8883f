"""Features on disk: reading them, making them with a teacher, and those of target sets."""
