"""``python -m fedsus``: the `fedsus` command without its script."""

from fedsus.cli import main

main()
