"""HTTP/1.1 over asyncio and what every serving process needs; shared by the gateway and the replicas."""
