"""What runs inside the environments of model servers: thin pieces of Mainspring that speak to their libraries."""
