"""Many models as one: each layer with the weights of m clients, on the examples of all of them.

Examples stay in one flat dimension, (m * B, ...), client by client. All that has no parameters works on them as it
is; only the layers of this package know where one client ends.
"""
