"""What a device does in a round: admit, train, answer; of the server's half it knows nothing."""
