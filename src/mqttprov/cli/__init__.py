"""The command line: one module per noun, which prints, asks and exits. No rules here.

stdout carries data, stderr carries talk. Imports that cost much (broker, simulator, X.509, rich) happen inside the
verbs that need them, so that `mqttprov token list` answers at once.
"""
