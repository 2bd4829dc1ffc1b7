"""Rollouts that are made up, and the rules that judge them."""
