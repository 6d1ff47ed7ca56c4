"""How we plug into a broker. `embedded` is our own; what it is made of lies beside it."""
