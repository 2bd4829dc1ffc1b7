"""The demo: real flights sent through the gateway in event time, and the report of what the loop did."""
