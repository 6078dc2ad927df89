"""Start mmengine runs: read configs, check data and checkpoints, and build the Runner."""
