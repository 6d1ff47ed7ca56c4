"""How we plug into a broker. `embedded` is our own, `amqtt_plugin` for a stock amqtt; what they are made of lies beside."""
