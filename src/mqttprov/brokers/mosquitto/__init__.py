"""Mosquitto with our gate plugin: its files, built and written for an operator. No messages travel through here."""
