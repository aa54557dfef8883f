"""The stages joined: settings, runs, the demo, comparison and report."""
