"""The search for the cheapest fleet that meets its objective. Pure."""
