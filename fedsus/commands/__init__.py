"""Sub-commands of `fedsus` that the library itself brings. Heavy imports happen inside the commands."""
