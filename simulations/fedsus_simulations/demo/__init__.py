"""The demo: four hospitals, a server and four agents on this machine, and what privacy and federation cost."""
