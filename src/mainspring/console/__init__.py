"""The control API: what the command line and the console ask of a running controller."""
