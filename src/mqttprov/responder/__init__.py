"""The hot path between a broker and the store: admission, the group-commit pipeline, logins, the outbox.

Time, randomness and the way back into the caller's thread are given from outside, so that all of it can also run in
virtual time. No broker and no sockets here.
"""
