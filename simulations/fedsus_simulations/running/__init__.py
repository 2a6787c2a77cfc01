"""A simulated run in its folder: opened, watched, resumed, drawn; and many of them, a sweep."""
