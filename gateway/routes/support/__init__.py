"""What the routes share: their parameters, the reading of bodies, media types, and what they keep of an answer."""
