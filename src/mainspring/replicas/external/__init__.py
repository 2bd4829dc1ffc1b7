"""A replica that stands for a server elsewhere: what it is asked is forwarded to a URL."""
