"""How we plug into a broker: `embedded` is our own, `amqtt_plugin` for a stock amqtt; the rest is their parts."""
