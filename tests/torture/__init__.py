"""Trials that take minutes: runs killed, stopped and damaged at random. `python -m tests.torture`, `make torture`."""
