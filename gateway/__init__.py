"""Calls in, answers out: publish, await, reply. Imports `protocol`, never `workers`."""
