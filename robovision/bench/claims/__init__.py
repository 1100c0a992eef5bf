"""Published claims tried at small scale, each a module with `run(progress)` and `count()`."""

NAMES = ("dsd", "lookhere", "nat", "coswin", "dualtoken", "smoe", "jitter")
