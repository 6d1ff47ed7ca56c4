"""What a run is to be, before it runs: the scenario and everything that can be drawn from it and its seed. Pure.

Values and arithmetic; no clock, sockets or global randomness, so that one seed gives one plan anywhere. Only `reading`
opens files.
"""
