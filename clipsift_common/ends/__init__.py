"""How a process ends before its work is done: told to stop, or because another rank has ended."""
