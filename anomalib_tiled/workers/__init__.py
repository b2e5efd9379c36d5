"""Where the work on tiles is done: the scheduler of all engines, and the built-in engines."""
