"""The swarm holds the server to its promises: by what gateways were told, and by what the store has."""
