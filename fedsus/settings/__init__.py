"""Tables of configuration files that have a file of their own; some are the operator's and the owners' alike."""
