"""The swarm simulator: fleets of virtual gateways that run the very machine and MQTT session of real ones.

`swarm` drives them over real sockets and measures; `demo` puts our own broker beside it; `live` shows both.
"""
