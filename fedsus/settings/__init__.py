"""Tables that more than one configuration file has: the operator's and the owners' alike."""
