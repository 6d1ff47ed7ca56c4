"""Logins and rights for brokers that ask over HTTP: two questions, one adapter for each broker's way of asking them."""
