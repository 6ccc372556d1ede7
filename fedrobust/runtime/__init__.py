"""Execution of a run, the only package that imports Flower: messages, engines, clients, server."""
