"""A replica that scores with a class of the user's own."""
