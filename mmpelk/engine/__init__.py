"""From a command line to a running mmengine Runner: reading configs, checks before a run, and the Runner itself."""
