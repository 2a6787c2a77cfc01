"""All use of Flower's internals on the server: they may change with its next minor version, which is pinned."""
