"""What a replica will do: step times, latency under load, time to load. Pure functions of shapes and coefficients."""
