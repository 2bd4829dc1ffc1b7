"""Autoscalers in the twin: the rules of others, and what all are compared on."""
