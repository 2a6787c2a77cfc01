"""Tasks: what is learned. Installed Python, written by users; see `fedsus.tasks.task`."""
