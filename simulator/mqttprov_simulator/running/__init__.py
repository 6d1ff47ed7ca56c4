"""A run while it runs: the workers that carry gateways, and who starts them, listens to them and adds up."""
