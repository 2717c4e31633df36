"""Policies that other programs trained, as policies of edgerl."""
