"""Processes: helpers that can be killed."""
